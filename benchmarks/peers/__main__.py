"""Other people's trainers beside ours, in turns in one run.

    python -m benchmarks.peers [--peer NAME ...] [--rounds 3] [config.yaml] [key=value ...]
    python -m benchmarks.peers --to-gold MINUTES [--folder FOLDER] [config.yaml] [key=value ...]

The first takes images a second at equal work (`equal_work.yaml`): each side with the micro-batch that is its fastest,
and no ratio where their counts of work differ. Ours is the whole loop through Ray, and the same in one process without
it. The second gives TRL's DDPO so many minutes at its documented settings, and asks when it, and when a run of ours at
its defaults, first had the gold score of its last adapter. With `--folder` adapters are kept, and the same command
again judges what is there; of the peer's part and ours it makes the one that was not finished anew, and a folder of
other settings or minutes is refused. A peer's environment is made where it is not there yet.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

from benchmarks.peers.compared import EQUAL_WORK, PEERS, compare, start
from benchmarks.peers.to_gold import to_gold
from cluster.arguments import Parser
from cluster.errors import sentence
from shapes.arguments import positive, positive_number


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = Parser("benchmarks.peers", __doc__ or "")
    parser.add_settings()
    parser.add_argument("--peer", action="append", choices=PEERS, help="whom to measure, again for another (all)")
    parser.add_argument("--rounds", type=positive, default=3, help="of every side (3)")
    parser.add_argument("--to-gold", type=positive_number, metavar="MINUTES", help="that TRL's DDPO trains")
    parser.add_argument("--folder", type=Path, help="that keeps --to-gold's adapters for the same command again")
    cache = Path.home() / ".cache" / "reinoise" / "peers"
    parser.add_argument("--environments", type=Path, default=cache, help=f"where those of peers are ({cache})")
    args = parser.parse_args(arguments)
    if args.folder and args.to_gold is None:
        parser.error("--folder keeps the adapters of --to-gold, which is not asked for")
    environments, settings = args.environments.absolute(), args.settings
    try:
        if args.to_gold is not None:
            with tempfile.TemporaryDirectory() as temporary:
                folder = (args.folder or Path(temporary)).absolute()
                begin = partial(start, "trl_ddpo", environments)
                to_gold(begin, settings, args.to_gold, folder)
            return 0
        words = settings if settings and "=" not in settings[0] else [str(EQUAL_WORK), *settings]
        for own in dict.fromkeys(PEERS.values()):
            if peers := [peer for peer in args.peer or PEERS if PEERS[peer] == own]:
                compare(words, own, peers, args.rounds, environments)
    except CalledProcessError:
        print("error: pip could not install a peer's environment; it says why above.", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"error: {sentence(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
