"""The weight store: the newest published adapter, which samplers pull at the start of each rollout."""

from __future__ import annotations

import time
from collections import deque

import ray

from actors.trajectories import Weights


class WeightStore:
    """Hands out a reference to the newest weights; made a Ray actor by `cluster.placement`.

    The weights are the *returned value* of a learner call, so the driver owns them and they survive the learner. The
    newest two stay alive, so that a sampler that has just been told of one can still fetch it.
    """

    def __init__(self) -> None:
        self._published: deque[tuple[tuple[int, int], ray.ObjectRef, float]] = deque(maxlen=2)

    def publish(self, weights: Weights, reference: list[ray.ObjectRef]) -> int:
        """Make weights the newest ones.

        Args:
            weights: The weights themselves, to verify them before anyone acts with them.
            reference: Their reference, in a list (Ray resolves bare references).

        Returns:
            Their version.
        """
        weights.verify()
        self._published.append(((weights.version, weights.crc32), reference[0], time.time()))
        return weights.version

    def newer(self, have: tuple[int, int] | None) -> tuple[ray.ObjectRef, float] | None:
        """The newest weights' reference, and when they were published (seconds since the epoch).

        `None` if `have` (version, checksum) is what they are.
        """
        if not self._published or self._published[-1][0] == have:
            return None
        return self._published[-1][1:]
