"""The weight store: where the newest published adapter is, which samplers ask at the start of each rollout."""

from __future__ import annotations

import time
from collections import deque

import ray


class WeightStore:
    """Hands out a reference to the newest weights; made a Ray actor by `cluster.crew`.

    Publications are numbered, because versions are not in order: after a learner was restored, an older one is the
    newer truth. The store never sees the weights themselves, so its node needs no copy of them. They are the *returned
    value* of a learner call, so the driver owns them and they survive the learner. The newest two stay alive, so that
    a sampler that has just been told of one can still fetch it.
    """

    def __init__(self) -> None:
        self._published: deque[tuple[int, ray.ObjectRef, float]] = deque(maxlen=2)

    def publish(self, reference: list[ray.ObjectRef]) -> None:
        """Make weights the newest ones; their reference comes in a list, because Ray resolves bare references."""
        number = self._published[-1][0] + 1 if self._published else 1
        self._published.append((number, reference[0], time.time()))

    def newer(self, have: int) -> tuple[int, ray.ObjectRef, float] | None:
        """The newest publication: its number, the weights' reference, and its time (seconds since the epoch).

        `None` if `have`, the number of the one that the asker has (0: none), is the newest.
        """
        if not self._published or self._published[-1][0] == have:
            return None
        return self._published[-1]
