"""Other people's trainers beside ours, in turns in one run: one file a peer, each in an environment of its own.

No peer's code is in here: its packages are installed from the index, pinned in the `.txt` file beside the peer.
"""
