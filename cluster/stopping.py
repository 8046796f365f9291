"""SIGTERM, which is how `ray job stop` and Kubernetes ask a run to end, as an orderly end at the next safe place."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class Stopped(Exception):
    """The run was asked to end, and the state of learner and driver is that between two iterations."""


class Stop:
    """While this block lasts, SIGTERM waits for the next `at_once` block.

    Outside the main thread, where Python has no signals, it changes nothing.
    """

    def __enter__(self) -> Stop:
        self._asked = self._at_once = False
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._main:
            signal.signal(signal.SIGTERM, self._before)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A block that a request ends where it is, or does not let begin.

        Raises:
            Stopped: If the request has come, or comes now.
        """
        self._at_once = True
        try:
            if self._asked:
                raise Stopped
            yield
        finally:
            self._at_once = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._at_once:
            raise Stopped
