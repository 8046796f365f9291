"""SIGTERM (`ray job stop`, Kubernetes), Ctrl-C and a terminal that closes, as an orderly end at the next safe place.

A process has one handler for each, so this is a module and not a class: `deferred` is around a whole command, `at_once`
around what may be dropped, and `beginning` around what must begin whole.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

REQUESTS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """The run was asked to end, and the state of learner and driver is that between two iterations.

    It may come inside a library, and of what a handler raises Ray's waits pass on this kind alone.

    Args:
        number: Of the signal that asked.
    """

    def __init__(self, number: int = signal.SIGTERM) -> None:
        self.signal = signal.Signals(number)
        super().__init__(self.signal.name)


class _State:
    # Plain attributes: a handler may come while a lock is held.
    asked: int | None = None
    at_once = False
    terminals: tuple[int, ...] = ()  # that go when the session hangs up
    last_words: Callable[[signal.Signals | None], str] = staticmethod(lambda asked: "")


@contextlib.contextmanager
def deferred(last_words: Callable[[signal.Signals | None], str] = lambda asked: "") -> Iterator[None]:
    """While this block lasts, a request waits for the next `at_once` block; Ctrl-C after one ends the process.

    Signals that are ignored from the start (`nohup`) stay so. Outside the main thread, where Python has no signals, it
    changes nothing.

    Args:
        last_words: What `abandon` is to say after a request, or without one.
    """
    _State.asked, _State.last_words = None, staticmethod(last_words)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.terminals = tuple(fd for fd in (1, 2) if os.isatty(fd))
    heeded = [number for number in REQUESTS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, _ask) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """A block that a request ends where it is, or does not let begin.

    Raises:
        Stopped: If the request has come within `deferred`, or comes now.
    """
    check()
    _State.at_once = True
    try:
        check()  # it may have come in between
        yield
    except BaseException:  # what Ray made of the request, or the loss of those who heard it too
        check()
        raise
    finally:
        _State.at_once = False


def check() -> None:
    """Raise what has been asked for.

    Raises:
        Stopped: If a request has come within `deferred`.
    """
    if _State.asked is not None:
        raise Stopped(_State.asked)


def abandon() -> NoReturn:
    """End the process, from any thread, because what it waits for never comes."""
    asked = None if _State.asked is None else signal.Signals(_State.asked)
    try:
        os.write(2, f"{_State.last_words(asked)}\n".encode())
    finally:  # also where the words cannot be found or written
        os._exit(1 if asked is None else 128 + asked)


@contextlib.contextmanager
def beginning() -> Iterator[None]:
    """A block that starts Ray: no request breaks it off, and the handlers that Ray sets are gone after it.

    The processes that it starts never hear of Ctrl-C or of a terminal that closes, which are for the driver alone.

    Raises:
        Stopped: If SIGTERM came when Ray's handler was there.
    """
    handlers = {number: signal.getsignal(number) for number in REQUESTS}
    blocked = {signal.SIGINT, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        yield
    except SystemExit:  # what Ray's handler raises
        raise Stopped from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)


def _ask(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT:
        if _State.asked is not None:
            for fd in _State.terminals[-1:]:
                os.write(fd, b"\x1b[?25h")  # a progress bar hides the cursor
            os._exit(128 + signal.SIGINT)
        if not _State.at_once:
            with contextlib.suppress(OSError):
                os.write(2, b"\nCtrl-C: the run ends after this step, to be continued; once more ends it at once.\n")
    elif number == signal.SIGHUP:
        for fd in _State.terminals:
            _discard(fd)  # what is written there from now on would fail
    _State.asked = _State.asked or number
    if _State.at_once:
        _State.at_once = False  # no second one breaks off what ends in good order
        raise Stopped(number)


def _discard(fd: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fd)
    os.close(null)
