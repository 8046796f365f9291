"""Batches of scored rollouts in request order, asked for as far ahead as pacing allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray

from actors.schedules import read_scheduler
from actors.trajectories import Request
from actors.transitions import make_transitions
from cluster.config import Config
from cluster.errors import Hung
from cluster.prompts import make_request, prompt_of, read_prompts
from cluster.sources.pacing import Pacing
from cluster.sources.rollouts import Rollout, Rollouts

# Is told how many images of how many are there.
Progress = Callable[[int, int], None]


def unseen(done: int, total: int) -> None:
    """Progress that nobody looks at."""


class Batches:
    """Where the loop gets its batches from.

    Requests are numbered through the run: batch b consists of the requests b n .. (b + 1) n - 1, in that order, in
    whatever order they arrive.

    Args:
        config: Of the run.
        rollouts: Runs the requests.
        version: Of the weights at the start; the batches before it have been trained on.
    """

    def __init__(self, config: Config, rollouts: Rollouts, version: int) -> None:
        self._config, self._rollouts = config, rollouts
        self._objective = config.objective.build()
        scheduler = read_scheduler(config.pipeline)
        transitions = make_transitions(scheduler, config.policy.steps, config.policy.sampler, config.policy.eta)
        self._stored_steps = self._objective.trained_steps(transitions.stochastic_steps)
        self._prompts, self._count = read_prompts(config.prompts.train), config.prompts_per_iteration
        in_flight = (config.samplers.max_staleness + 1) * config.batch_size
        self._pacing = Pacing(config.batch_size, config.samplers.max_staleness, in_flight, version)
        self._per_batch = config.batch_size // config.samplers.request_size
        self._next = version * self._per_batch
        self._pending: set[int] = set()
        self._done: dict[int, Rollout] = {}
        self._offline: list[list[Rollout]] = []

    def draw_offline(self, progress: Progress = unseen) -> None:
        """Draw the batches of an offline objective; the store must not have newer weights than the pretrained ones."""
        for batch in range(self._objective.offline_batches):
            for number in self._numbers(batch):
                self._submit(number, oldest=0)
            self._offline.append(self._collect(batch, progress))

    def batch(self, version: int, progress: Progress = unseen) -> list[Rollout]:
        """The rollouts of the batch that makes `version` + 1, once all are scored.

        Args:
            version: Of the learner.
            progress: Is told how many of the batch's images are scored, and how many they are.
        """
        if self._offline:
            return self._offline[version % len(self._offline)]
        self._pacing.version = version
        return self._collect(version, progress)

    def wait_for(self, references: Sequence[ray.ObjectRef], patience: float) -> list[Any]:
        """The values of references; rollouts go on meanwhile, and the first failure is raised when it happens.

        Raises:
            Hung: If they are not there after `patience` seconds.
        """
        deadline = time.monotonic() + patience
        waiting = list(references)
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=0)
            ray.get(ready)
            if not ready:
                if time.monotonic() > deadline:
                    raise Hung(f"The learner has not finished an update in {patience:g} s (failures.patience.learn).")
                self._rollouts.wait(also=waiting)
        return ray.get(list(references))

    def _numbers(self, batch: int) -> range:
        return range(batch * self._per_batch, (batch + 1) * self._per_batch)

    def _collect(self, batch: int, progress: Progress) -> list[Rollout]:
        numbers, size = self._numbers(batch), self._config.samplers.request_size
        while True:
            self._fill()
            for number in list(self._pending):
                if (rollout := self._rollouts.take(number)) is not None:
                    self._pending.remove(number)
                    self._done[number] = rollout
                    self._pacing.accept(len(rollout.request.prompts))
            ready = sum(number in self._done for number in numbers)
            progress(ready * size, len(numbers) * size)
            if ready == len(numbers):
                return [self._done.pop(number) for number in numbers]
            self._rollouts.wait()

    def _fill(self) -> None:
        """Submit requests while there is room."""
        if self._objective.offline_batches:
            return
        last = self._config.iterations * self._per_batch
        while self._next < last and self._pacing.room >= self._config.samplers.request_size:
            # A rollout for batch b may act with weights that are max_staleness versions older than b.
            batch = self._next // self._per_batch
            self._submit(self._next, oldest=max(0, batch - self._config.samplers.max_staleness))
            self._next += 1

    def _submit(self, number: int, oldest: int) -> None:
        self._pacing.submit(self._config.samplers.request_size)
        self._pending.add(number)
        self._rollouts.submit(number, self._request(number), oldest)

    def _request(self, number: int) -> Request:
        batch, position = divmod(number, self._per_batch)
        size, seed = self._config.samplers.request_size, self._config.seed
        return make_request(
            lambda group: prompt_of(self._prompts, batch, group, self._count, seed),
            range(position * size, (position + 1) * size),
            self._config.prompts.samples,
            seed,
            batch,
            self._stored_steps,
            self._objective.share_init_noise,
        )
