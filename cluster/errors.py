"""What `cluster` raises, and the one sentence that a command ends with, whoever raised: the driver, an actor, Ray."""

from __future__ import annotations

import re
import tempfile
import traceback
from pathlib import Path

from cluster.text import shown

_OURS = ("actors", "cluster", "learner", "rewards", "shapes")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_SETTING = re.compile(r"policy\.[a-z_]+[ =]")  # begins some sentences of `actors`
_LONGEST = 1500  # characters


class ConfigError(Exception):
    """A configuration that cannot work; the message is one sentence for the user.

    Control characters in it are written out, and words that nobody reads to their end are cut.
    """

    def __init__(self, sentence: str) -> None:
        super().__init__(re.sub(r"\S{400,}", lambda word: f"{word[0][:100]}...{word[0][-50:]}", shown(sentence)))


class StartError(RuntimeError):
    """An actor that cannot be started; the message is one sentence for the user."""


class DoesNotFit(StartError):
    """The cluster has no room; the message is one sentence for the user."""


class ActorsLost(RuntimeError):
    """Actors died more often than the run allows."""


class Hung(RuntimeError):
    """Something without which nothing goes on does not answer."""


class RunStopped(RuntimeError):
    """The run cannot go on; the message is one sentence for the user."""


class NobodyChose(RunStopped):
    """The run waited for people, and none came; the state of learner and driver is that between two iterations."""


class Locked(Exception):
    """Another driver is at work in the folder; the message is one sentence for the user."""


class WriteError(OSError):
    """A file that could not be written; the message is one sentence for the user."""


def sentence(error: BaseException, folder: Path | None = None) -> str:
    """What went wrong, on one line that a terminal shows as it is.

    Messages of our own exceptions are sentences already. Of any other the type is named, unless its message reads like
    a sentence of ours, and the traceback is kept.

    Args:
        error: What was raised.
        folder: Of the run, for the traceback; `None` where there is no run yet.
    """
    from ray.exceptions import RayActorError, RayTaskError  # not above: who only reads runs needs no Ray

    cause = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(cause, SystemExit):
        return _line(f"Something that the run loaded ended the process with sys.exit({cause.code!r}); it must not.")
    message = str(cause)
    if type(cause).__module__.split(".")[0] in _OURS:
        return _line(message)
    if _is_sentence(message):
        if folder is not None:
            _keep(error, folder)
        return _line(message)
    if isinstance(cause, RayActorError):
        return _line(f"An actor was lost: {message}")
    said = f"{type(cause).__name__}: {message}" if message else type(cause).__name__
    return f"{_line(said)} (traceback: {_keep(error, folder)})"


def _is_sentence(message: str) -> bool:
    begins = message[:1].isupper() or _SETTING.match(message)
    return bool(begins) and message.rstrip().endswith(".") and " " in message and "\n" not in message.strip()


def _line(text: str) -> str:
    text = shown(" ".join(_COLOURS.sub("", text).split()))
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " ..."


def _keep(error: BaseException, folder: Path | None) -> str:
    """Write a traceback to a file, and say which."""
    text = "".join(traceback.format_exception(error))
    try:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="reinoise-"))
        path = folder / "error.log"
        path.write_text(_COLOURS.sub("", text), encoding="utf-8", errors="backslashreplace")
    except OSError:
        return "it could not be written"
    return str(path)
