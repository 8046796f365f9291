"""Who worked when: spans of the driver's phases, of samplers, rewards and the learner, one part an iteration.

Times are seconds since the epoch by the clock of whoever measured: the machines of samplers and learner for what they
did, the driver's for its phases and for the calls of rewards, which include their way there and back.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

DRIVER = "driver"
TIMELINE = pa.schema(
    {
        "iteration": pa.int64(),
        "who": pa.string(),
        "what": pa.string(),
        "started": pa.float64(),
        "seconds": pa.float64(),
    }
)


class Span(NamedTuple):
    """A piece of work."""

    who: str  # the driver, or an actor
    what: str  # a phase, or the call
    started: float  # seconds since the epoch
    seconds: float


class Phases:
    """The driver's phases, which follow one another without a gap."""

    def __init__(self) -> None:
        self._name, self._since, self._wall = "starting", time.monotonic(), time.time()
        self._ended: list[Span] = []

    def begin(self, name: str) -> None:
        """End the phase that was, and begin one."""
        now = time.monotonic()
        seconds = now - self._since
        self._ended.append(Span(DRIVER, self._name, self._wall, seconds))
        self._name, self._since, self._wall = name, now, self._wall + seconds

    def take(self) -> list[Span]:
        """The spans since the last call; a phase that goes on is cut in two."""
        self.begin(self._name)
        taken, self._ended = self._ended, []
        return taken


def table(iteration: int, spans: Sequence[Span]) -> pa.Table:
    """The rows of an iteration."""
    columns = [[iteration] * len(spans), *(list(column) for column in zip(*spans, strict=True))]
    return pa.table(columns, schema=TIMELINE) if spans else TIMELINE.empty_table()
