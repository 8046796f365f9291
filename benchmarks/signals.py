"""Signals of benchmarks and tests that start commands and strike them with signals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


def heed() -> None:
    """Let Ctrl-C and hang-ups reach the commands that this process starts, also where it runs in the background.

    Ignored (`nohup`, jobs of a script) they would be ignored by children too; a handler is not handed down.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, _go_on)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """A block that SIGTERM ends as an exception does, so that what it has started is closed.

    Raises:
        SystemExit: With the status 143. A second SIGTERM does not break off the closing.
    """
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, _go_on)
    raise SystemExit(128 + number)


def _go_on(number: int, frame: FrameType | None) -> None:
    pass
