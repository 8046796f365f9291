"""SIGTERM, which is how `ray job stop` and Kubernetes ask a run to end, as an orderly end at the next safe place.

A process has one SIGTERM, so this is a module and not a class: `deferred` is around a whole run, `at_once` around what
may be dropped.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """The run was asked to end, and the state of learner and driver is that between two iterations.

    No `Exception`, as `KeyboardInterrupt` is none: it may come inside a library that handles those.
    """


class _State:
    # Plain attributes: a handler may come while a lock is held.
    asked = False
    at_once = False


@contextmanager
def deferred() -> Iterator[None]:
    """While this block lasts, SIGTERM waits for the next `at_once` block.

    Outside the main thread, where Python has no signals, it changes nothing.
    """
    _State.asked = False
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def at_once() -> Iterator[None]:
    """A block that a request ends where it is, or does not let begin.

    Raises:
        Stopped: If the request has come within `deferred`, or comes now.
    """
    _State.at_once = True
    try:
        if _State.asked:
            raise Stopped
        yield
    finally:
        _State.at_once = False


def _ask(number: int, frame: FrameType | None) -> None:
    _State.asked = True
    if _State.at_once:
        raise Stopped
