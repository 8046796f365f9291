"""What has arrived of all that is waited for, at a cost that does not grow with how much that is.

`ray.wait` looks at every reference that it is given, each time: with a thousand samplers the driver would do little
else. Here Ray says of each reference once that it is ready.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from queue import Empty, SimpleQueue

import ray

from cluster.crew.pool import Pool


class Arrivals:
    """References as they become ready: all of some pools', and others that are expected.

    Args:
        pools: Whose references; new ones of theirs are expected as they come.
    """

    def __init__(self, pools: Iterable[Pool]) -> None:
        self._arrived: SimpleQueue[ray.ObjectRef] = SimpleQueue()
        self._expected: dict[ray.ObjectRef, Pool | None] = {}
        for pool in pools:
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

    def wait(self, timeout: float) -> list[tuple[ray.ObjectRef, Pool | None]]:
        """Everything that has become ready since this was last asked; waits for the first for `timeout` seconds."""
        found: list[tuple[ray.ObjectRef, Pool | None]] = []
        try:
            while True:
                reference = self._arrived.get_nowait() if found else self._arrived.get(timeout=timeout)
                found.append((reference, self._expected.pop(reference)))
        except Empty:
            return found
