"""What can go wrong with a reward, as sentences that travel: errors of other people's classes may not be picklable."""

from __future__ import annotations

import sysconfig
import traceback
from types import TracebackType

_LIBRARY = sysconfig.get_path("stdlib")


class RewardUnavailable(RuntimeError):
    """A reward is gone for good, so the run ends; the message is one sentence for the user."""


class WrongAnswer(RewardUnavailable):
    """A reward answers with something else than what it was asked for; asking again would not help."""


class RewardFailed(RuntimeError):
    """A reward's own code raised on these images; on others it may not. The message is one sentence for the user."""


def said(error: BaseException) -> str:
    """An error in a few words: its type, its message on one line, and the place in the user's code that it is from."""
    try:
        message = " ".join(str(error).split())[:500].rstrip(".")
    except Exception:
        message = ""
    place = _place(error.__traceback__)
    return type(error).__name__ + (f": {message}" if message else "") + (f" at {place}" if place else "")


def _place(trace: TracebackType | None) -> str:
    # The innermost frame that is no library's; the outermost one is where the error was caught.
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(trace)][1:]
    own = [(f, line) for f, line in frames if not f.startswith((_LIBRARY, "<")) and "site-packages" not in f]
    file, line = (own or frames or [("", 0)])[-1]
    return f"{file}:{line}" if file and not file.startswith("<") else ""
