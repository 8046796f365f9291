"""Actors in this process that take their time without being there: the loop sees handles and references, as of Ray's.

A call is made where it is submitted; what it would have slept is when it is answered, after the calls before it. What
this leaves out of a driver's work is Ray itself: writing down, sending and tracking calls, and reading answers.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from itertools import count
from typing import Any
from unittest import mock

import ray
from ray.exceptions import GetTimeoutError

from cluster.crew.pool import MAX_IN_FLIGHT


class Reference:
    """What stands for an answer."""

    def __init__(self) -> None:
        self._future: Future[Any] = Future()

    def future(self) -> Future[Any]:
        """Is done when the answer is there."""
        return self._future


class Clock(threading.Thread):
    """Gives answers when they are due."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._due: list[tuple[float, int, Future[Any], Any]] = []
        self._numbers, self._changed, self._ended = count(), threading.Condition(), False

    def answer(self, due: float, reference: Reference, value: Any) -> None:
        """Give a reference its value at a time of the monotonic clock."""
        with self._changed:
            heapq.heappush(self._due, (due, next(self._numbers), reference.future(), value))
            if self._due[0][2] is reference.future():
                self._changed.notify()

    def run(self) -> None:
        """Answer until the end."""
        with self._changed:
            while not self._ended:
                now = time.monotonic()
                while self._due and self._due[0][0] <= now:
                    _, _, future, value = heapq.heappop(self._due)
                    future.set_result(value)
                self._changed.wait(self._due[0][0] - now if self._due else None)

    def end(self) -> None:
        """Answer nothing any more."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self.join()


class StandIn:
    """A handle.

    Args:
        clock: Gives its answers.
        role: Makes what it does from a function to sleep with.

    Attributes:
        waits: Of every call after the first ones: when it came (monotonic), seconds since the call ended that made room
            for it, and seconds that the actor had nothing to do before it.
    """

    def __init__(self, clock: Clock, role: Callable[[Callable[[float], None]], Any]) -> None:
        self._clock, self._slept = clock, 0.0
        self._role = role(self._sleep)
        self._ends: deque[float] = deque()
        self.waits: list[tuple[float, float, float]] = []

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, getattr(self._role, name))

    def _sleep(self, seconds: float) -> None:
        self._slept += seconds

    def start(
        self, method: Callable[..., Any], arguments: Sequence[Any], keywords: dict[str, Any]
    ) -> tuple[Any, float]:
        """Make a call; returns what it answers, and when (monotonic)."""
        now, self._slept = time.monotonic(), 0.0
        value = method(*arguments, **keywords)
        if not self._slept:
            return value, now
        free = self._ends[-1] if self._ends else now
        if len(self._ends) == MAX_IN_FLIGHT:
            self.waits.append((now, now - self._ends.popleft(), max(0.0, now - free)))
        self._ends.append(max(now, free) + self._slept)
        return value, self._ends[-1]

    def give(self, due: float, reference: Reference, value: Any) -> None:
        """Answer at a time of the monotonic clock."""
        if due <= time.monotonic():
            reference.future().set_result(value)
        else:
            self._clock.answer(due, reference, value)


class _Method:
    def __init__(self, actor: StandIn, method: Callable[..., Any], returns: int = 1) -> None:
        self._actor, self._method, self._returns = actor, method, returns

    def options(self, num_returns: int) -> _Method:
        return _Method(self._actor, self._method, num_returns)

    def remote(self, *arguments: Any, **keywords: Any) -> Any:
        value, due = self._actor.start(self._method, arguments, keywords)
        references = [Reference() for _ in range(self._returns)]
        for reference, part in zip(references, [value] if self._returns == 1 else value, strict=True):
            self._actor.give(due, reference, part)
        return references[0] if self._returns == 1 else references


@contextmanager
def in_place_of_ray() -> Iterator[Clock]:
    """A block in which `ray.get`, `wait` and `kill` know stand-ins alone; the clock that these need."""
    clock = Clock()
    clock.start()
    with mock.patch.multiple(ray, get=_get, wait=_wait, kill=lambda actor: None):
        yield clock
    clock.end()


def _get(references: Any, timeout: float | None = None) -> Any:
    if isinstance(references, list):
        return [_get(reference, timeout) for reference in references]
    try:
        return references.future().result(timeout)
    except TimeoutError:
        raise GetTimeoutError from None


def _wait(
    references: Sequence[Reference], num_returns: int = 1, timeout: float | None = None, fetch_local: bool = True
) -> tuple[list[Reference], list[Reference]]:
    if not any(reference.future().done() for reference in references):
        wait([reference.future() for reference in references], timeout, FIRST_COMPLETED)
    ready = [reference for reference in references if reference.future().done()][:num_returns]
    return ready, [reference for reference in references if reference not in ready]
