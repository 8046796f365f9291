"""What can go wrong with a reward, as sentences that travel: errors of other people's classes may not be picklable."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path
from types import TracebackType

_LIBRARY = sysconfig.get_path("stdlib")
_ASKING = {str(Path(__file__).parent / name) for name in ("__init__.py", "checked.py", "function.py", "reward.py")}


class UnknownReward(KeyError):
    """There is no such reward; the message is one sentence."""

    def __str__(self) -> str:
        return str(self.args[0])


class RewardUnavailable(RuntimeError):
    """A reward is gone for good, so the run ends; the message is one sentence for the user."""


class WrongAnswer(RewardUnavailable):
    """A reward answers with something else than what it was asked for; asking again would not help."""


class RewardFailed(RuntimeError):
    """A reward's own code raised on these images; on others it may not. The message is one sentence for the user."""


def said(error: BaseException, place: bool = True) -> str:
    """An error in a few words: its type, its message on one line, and the place in the user's code that it is from."""
    try:
        message = " ".join(str(error).split())[:500].rstrip(".")
    except Exception:
        message = ""
    where = _place(error.__traceback__) if place else ""
    return type(error).__name__ + (f": {message}" if message else "") + (f" at {where}" if where else "")


def _place(trace: TracebackType | None) -> str:
    # The innermost frame that is no library's, and none of those that only ask.
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(trace)]
    frames = [(file, line) for file, line in frames if not file.startswith("<") and file not in _ASKING]
    own = [(file, line) for file, line in frames if not file.startswith(_LIBRARY) and "site-packages" not in file]
    return ":".join(map(str, (own or frames)[-1])) if frames else ""
