"""Batches that are drawn once, from the model that the run began with, and trained on again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import ray

from cluster.config import Config
from cluster.sources.rollouts import Rollout, Rollouts
from cluster.sources.source import Progress, RequestMaker, unseen
from learner.objectives.objective import Plan


class Offline:
    """A source of `plan.offline_batches` batches in turn; each is drawn when it is first asked for.

    Args:
        config: Of the run.
        rollouts: Runs the requests.
        plans: What the learner wants the rollouts of each batch to be like.
        weights: The adapter that the run began with: whatever has been published since, these act.
    """

    def __init__(self, config: Config, rollouts: Rollouts, plans: Sequence[Plan], weights: ray.ObjectRef) -> None:
        self._rollouts, self._requests = rollouts, RequestMaker(config, plans)
        self._count, self._weights = plans[0].offline_batches, weights
        self._drawn: dict[int, list[Rollout]] = {}

    def batch(self, version: int, progress: Progress = unseen) -> list[Rollout]:
        """See `Source`."""
        batch = version % self._count
        if batch in self._drawn:
            # Nobody sampled for this update, and the figures must not say so.
            return [replace(rollout, seconds=0.0, lag=None, actor=None) for rollout in self._drawn[batch]]
        self._drawn[batch] = self._draw(batch, progress)
        return self._drawn[batch]

    def _draw(self, batch: int, progress: Progress) -> list[Rollout]:
        numbers, size = self._requests.of_batch(batch), self._requests.size
        for number in numbers:
            self._rollouts.submit(number, self._requests[number], 0, self._weights)
        done: dict[int, Rollout] = {}
        while len(done) < len(numbers):
            progress(len(done) * size, len(numbers) * size)
            self._rollouts.wait()
            done |= self._rollouts.finished(numbers)
        # Nobody looks at the pictures again, which fill the object store.
        return [replace(done[number], pixels=None) for number in numbers]  # type: ignore[arg-type]
