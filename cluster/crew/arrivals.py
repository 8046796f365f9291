"""What has arrived of all that is waited for, at a cost that does not grow with how much that is.

`ray.wait` looks at every reference that it is given, each time: with a thousand samplers the driver would do little
else. Here Ray says of each reference once that it is ready.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import ray

from cluster.crew.pool import Pool

_LOOK_AROUND = 1.0  # seconds


class Arrivals:
    """References as they become ready: all of some pools', and others that are expected.

    Args:
        pools: Whose references; new ones of theirs are expected as they come.
    """

    def __init__(self, pools: Iterable[Pool]) -> None:
        self._arrived: SimpleQueue[ray.ObjectRef] = SimpleQueue()
        self._expected: dict[ray.ObjectRef, Pool | None] = {}
        self._pools, self._checked = tuple(pools), time.monotonic()  # whether an actor hangs
        for pool in self._pools:
            pool.announce(partial(self.expect, pool=pool))

    def expect(self, reference: ray.ObjectRef, pool: Pool | None = None) -> None:
        """Wait for a reference too, unless it is waited for already.

        Args:
            reference: Of a value that is cheap to fetch: it is fetched as soon as it is there.
            pool: Whose it is; `None` is nobody's.
        """
        if reference not in self._expected:
            self._expected[reference] = pool
            reference.future().add_done_callback(lambda _: self._arrived.put(reference))

    def settled(self) -> Iterator[tuple[Pool, Any, Any]]:
        """The pools' calls that have ended since this was last asked: whose, the job, its value as of `Pool.settle`.

        Waits for something to happen, for a second at most; actors that hang are killed then.

        Raises:
            ActorsLost, StartError: As `Pool.settle` and `Pool.check`.
        """
        for reference, pool in self.wait(_LOOK_AROUND):
            if pool is not None and (ended := pool.settle(reference)):
                yield pool, *ended
        if (now := time.monotonic()) - self._checked >= _LOOK_AROUND:
            self._checked = now
            for pool in self._pools:
                pool.check()

    def wait(self, timeout: float) -> list[tuple[ray.ObjectRef, Pool | None]]:
        """Everything that has become ready since this was last asked; waits for the first for `timeout` seconds."""
        found: list[tuple[ray.ObjectRef, Pool | None]] = []
        try:
            while True:
                reference = self._arrived.get_nowait() if found else self._arrived.get(timeout=timeout)
                found.append((reference, self._expected.pop(reference)))
        except Empty:
            return found
