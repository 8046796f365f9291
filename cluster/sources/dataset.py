"""Batches from a dataset of pairs, decoded and encoded by the samplers while the learner is at work.

Batch v owns the rows at places v n to (v + 1) n of an endless shuffled walk (`cluster.sources.shuffle`), n being
`data.pairs`, whatever is in them: rows that are skipped leave the batch smaller and move no other row. So the batch is
a function of the dataset, the seed and v, bit for bit, however many actors read and wherever a run went on; and finding
it takes the ends of the files alone, read once.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cluster.config import Config
from cluster.errors import RunStopped
from cluster.sources.pairs import Counts, Rows
from cluster.sources.rollouts import Rollout, Rollouts
from cluster.sources.shuffle import Shuffle
from cluster.sources.source import Progress, unseen
from rewards.people.pick_a_pic import read_index

_ENOUGH = 100  # rows that a share is taken of; of fewer chance decides


class Dataset:
    """A source of pairs, as groups of two samples.

    Args:
        config: Of the run, with `data`.
        rollouts: Has the rows read, and judged where labels are to be of rewards.
        version: Of the weights at the start; the batches before it have been trained on.

    Raises:
        ValueError: If there is no such dataset.
    """

    def __init__(self, config: Config, rollouts: Rollouts, version: int) -> None:
        assert config.data is not None
        self._data, self._rollouts, self._seed = config.data, rollouts, config.seed
        by_people = config.data.labels == "people"
        self._index = read_index(Path(config.data.path), config.data.split, by_people)
        self._order = Shuffle(self._index.sizes, config.seed)
        self._size, self._end = config.samplers.request_size // 2, config.iterations
        self._per_batch = config.data.pairs // self._size
        self._next, self._seen = version, Counts()
        self._done: dict[int, Rollout] = {}

    def batch(self, version: int, progress: Progress = unseen) -> list[Rollout]:
        """See `Source`; has `data.ahead` later batches read too.

        Raises:
            RunStopped: If too many rows cannot be read, or none can be used.
        """
        while self._next <= min(version + self._data.ahead, self._end - 1):
            for request in range(self._per_batch):
                self._submit(self._next, request)
            self._next += 1
        numbers = range(version * self._per_batch, (version + 1) * self._per_batch)
        asked = range(numbers.start, self._next * self._per_batch)
        ready = sum(number in self._done for number in numbers)
        while True:
            finished = self._rollouts.finished(asked)
            self._done |= finished
            ready += sum(number in numbers for number in finished)
            progress(2 * self._size * ready, 2 * self._size * len(numbers))
            if ready == len(numbers):
                break
            self._rollouts.wait()
        batch = [self._done.pop(number) for number in numbers]
        self._check(batch)
        # Nobody looks at the pictures again, which fill the object store.
        return [replace(rollout, pixels=None) for rollout in batch]  # type: ignore[arg-type]

    def rows(self, batch: int, request: int) -> Rows:
        """The rows of a request, each batch's numbered from 0."""
        start = batch * self._data.pairs + request * self._size
        pieces = []
        for group, rows in self._order.take(start, start + self._size):
            file, number = self._index.groups[group]
            pieces.append((self._index.files[file], number, rows))
        labels = self._data.labels == "people", self._data.ties == "drop"
        return Rows(self._seed, batch, request * self._size, tuple(pieces), *labels)

    def _submit(self, batch: int, request: int) -> None:
        judged = self._data.labels == "rewards"
        self._rollouts.read(batch * self._per_batch + request, self.rows(batch, request), batch, judged)

    def _check(self, batch: list[Rollout]) -> None:
        """Refuse to go on with a dataset that is broken; the shares are of what this driver has read."""
        self._seen = sum((rollout.counts for rollout in batch if rollout.counts), self._seen)
        seen, allowed = self._seen, self._data.max_corrupt
        if seen.corrupt > allowed * max(seen.rows, _ENOUGH):
            raise RunStopped(
                f"Of the {seen.rows:,} rows read so far {seen.corrupt:,} are corrupt (pictures that cannot be decoded, "
                f"captions that are missing, labels outside of [0, 1]), more than data.max_corrupt={allowed} allows; "
                f"look at {self._data.path}."
            )
        if seen.rows >= min(_ENOUGH, self._index.rows) and not seen.pairs:
            raise RunStopped(
                f"None of the {seen.rows:,} rows read so far can be learned from: {seen.ties:,} are ties (data.ties), "
                f"{seen.unlabelled:,} have no label, {seen.long:,} a caption that is longer than the model reads "
                f"(policy.prompt_windows), and {seen.corrupt:,} are corrupt; look at {self._data.path}."
            )
