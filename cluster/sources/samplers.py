"""Batches from samplers, in request order, asked for as far ahead as pacing allows."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.config import Config
from cluster.sources.pacing import Pacing
from cluster.sources.rollouts import Rollout, Rollouts
from cluster.sources.source import Progress, RequestMaker, unseen
from learner.objectives.objective import Plan


class Sampled:
    """A source of fresh batches, each in the order of its requests, in whatever order they arrive.

    Args:
        config: Of the run.
        rollouts: Runs the requests.
        version: Of the weights at the start; the batches before it have been trained on.
        plans: What the learner wants the rollouts of each batch to be like.
    """

    def __init__(self, config: Config, rollouts: Rollouts, version: int, plans: Sequence[Plan]) -> None:
        self._rollouts, self._requests = rollouts, RequestMaker(config, plans)
        self._staleness = config.samplers.max_staleness
        in_flight = (self._staleness + 1) * config.batch_size
        self._pacing = Pacing(config.batch_size, self._staleness, in_flight, version)
        self._next, self._end = (self._requests.per_batch * batch for batch in (version, config.iterations))
        self._pending: set[int] = set()
        self._done: dict[int, Rollout] = {}

    def batch(self, version: int, progress: Progress = unseen) -> list[Rollout]:
        """See `Source`; asks for later batches too, as far as they may be stale."""
        self._pacing.version = version
        numbers, size = self._requests.of_batch(version), self._requests.size
        ready = sum(number in self._done for number in numbers)
        while True:
            self._fill()
            for number, rollout in self._rollouts.finished(self._pending).items():
                self._pending.remove(number)
                self._done[number] = rollout
                self._pacing.accept(len(rollout.request.prompts))
                ready += number in numbers
            progress(ready * size, len(numbers) * size)
            if ready == len(numbers):
                return [self._done.pop(number) for number in numbers]
            self._rollouts.wait()

    def _fill(self) -> None:
        """Submit requests while there is room."""
        while self._next < self._end and self._pacing.room >= self._requests.size:
            # A rollout for batch b may act with weights that are max_staleness versions older than b.
            batch = self._next // self._requests.per_batch
            self._pacing.submit(self._requests.size)
            self._pending.add(self._next)
            self._rollouts.submit(self._next, self._requests[self._next], max(0, batch - self._staleness))
            self._next += 1
