"""Actors without Ray whose calls end one at a time, in an order of chance: a driver's own work can be counted."""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import FrameType
from typing import Any

import cluster

_OURS = str(Path(cluster.__file__).parent)


class Reference:
    """What stands for an answer."""

    def __init__(self) -> None:
        self._future: Future[Any] = Future()

    def future(self) -> Future[Any]:
        return self._future


def get(reference: Reference, timeout: float | None = None) -> Any:
    """As `ray.get`."""
    return reference.future().result(timeout)


class World:
    """Whose actors there are.

    Args:
        seed: Of the order in which calls end.

    Attributes:
        ended: How many calls have.
    """

    def __init__(self, seed: int = 0) -> None:
        self._random = random.Random(seed)
        self._queues: list[deque[tuple[Reference, Any]]] = []
        self._waiting: list[int] = []  # a queue's number for each call in it
        self.ended = 0  # calls

    def actor(self, **methods: Callable[..., Any]) -> Any:
        """A handle; its methods say what a call answers, and several answers in a list. `ready` answers at once."""
        self._queues.append(deque())
        return _Handle(self, len(self._queues) - 1, methods)

    def call(self, actor: int, answer: Any) -> Any:
        """Have an actor answer after what it has to answer already."""
        answers = answer if isinstance(answer, list) else [answer]
        references = [Reference() for _ in answers]
        for reference, value in zip(references[1:], answers[1:], strict=True):
            reference.future().set_result(value)
        self._queues[actor].append((references[0], answers[0]))
        self._waiting.append(actor)
        return references if isinstance(answer, list) else references[0]

    def end_one(self, actor: int | None = None) -> int:
        """End the oldest call of an actor, or of one of those that have some; says whose."""
        place = self._random.randrange(len(self._waiting)) if actor is None else self._waiting.index(actor)
        self._waiting[place], self._waiting[-1] = self._waiting[-1], self._waiting[place]
        actor = self._waiting.pop()
        self.ended += 1
        reference, value = self._queues[actor].popleft()
        reference.future().set_result(value)
        return actor


class _Handle:
    def __init__(self, world: World, number: int, methods: dict[str, Callable[..., Any]]) -> None:
        self._world, self._number, self._methods = world, number, methods

    def __getattr__(self, name: str) -> _Method:
        return _Method(self, name)

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "ready":
            reference = Reference()
            reference.future().set_result(None)
            return reference
        return self._world.call(self._number, self._methods[name](*arguments))


class _Method:
    def __init__(self, handle: _Handle, name: str) -> None:
        self._handle, self._name = handle, name

    def options(self, **_: Any) -> _Method:
        return self

    def remote(self, *arguments: Any) -> Any:
        return self._handle.call(self._name, arguments)


def lines_of(work: Callable[[], object]) -> int:
    """How many lines of `cluster` are carried out by some work, each turn of a loop within a line counted too."""
    lines, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        lines += event == "line"
        return trace

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines
