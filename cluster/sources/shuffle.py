"""The order in which the rows of a dataset come: a seeded permutation of its row groups, and of the rows in each.

So that a batch is read from few row groups, those of one come one after the other. The order of an epoch is a function
of (seed, epoch) alone, and any place in it is found without what comes before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np


class Shuffle:
    """An endless walk over the rows of row groups, each epoch in an order of its own.

    Args:
        sizes: Rows of each row group, at least 1.
        seed: Of the order.
    """

    def __init__(self, sizes: Sequence[int], seed: int) -> None:
        self._sizes, self._seed = np.array(sizes, np.int64), seed
        self.rows = int(self._sizes.sum())
        self._of_epoch = lru_cache(maxsize=2)(self._order)
        self._of_group = lru_cache(maxsize=4)(self._rows_of)

    def take(self, start: int, stop: int) -> Iterator[tuple[int, tuple[int, ...]]]:
        """The rows at places `start` to `stop` of the walk: row groups, each with its rows, in order.

        Args:
            start: A place, counted from the beginning of epoch 0; epoch e begins at e times the number of rows.
            stop: The place after the last.
        """
        while start < stop:
            epoch, place = divmod(start, self.rows)
            groups, ends = self._of_epoch(epoch)
            number = int(np.searchsorted(ends, place, side="right"))
            group, before = int(groups[number]), int(ends[number] - self._sizes[groups[number]])
            count = min(stop - start, int(ends[number]) - place)
            yield group, tuple(self._of_group(epoch, group)[place - before : place - before + count].tolist())
            start += count

    def _order(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The row groups in the order of an epoch, and the place after each one's last row."""
        groups = np.random.default_rng([self._seed, epoch]).permutation(len(self._sizes))
        return groups, np.cumsum(self._sizes[groups])

    def _rows_of(self, epoch: int, group: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch, group]).permutation(self._sizes[group])
