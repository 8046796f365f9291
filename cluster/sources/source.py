"""What the loop asks for batches, and the requests that they are made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from actors.trajectories import Request
from cluster.config import Config
from cluster.prompts import make_request, prompt_of, read_prompts
from cluster.sources.rollouts import Rollout
from learner.objectives.objective import Plan

# Is told how many images of how many are there.
Progress = Callable[[int, int], None]


def unseen(done: int, total: int) -> None:
    """Progress that nobody looks at."""


class Source(Protocol):
    """Where the loop gets its batches from."""

    def batch(self, version: int, progress: Progress = unseen) -> list[Rollout]:
        """The rollouts of the batch that makes `version` + 1, once all are scored.

        Args:
            version: Of the learner.
            progress: Is told how many of the batch's images are scored, and how many they are.
        """
        ...


class RequestMaker:
    """The requests of a run: batch b consists of those numbered b n .. (b + 1) n - 1, in that order.

    Args:
        config: Of the run.
        plans: What the learner wants the rollouts of each batch to be like.
    """

    def __init__(self, config: Config, plans: Sequence[Plan]) -> None:
        self._config, self._plans = config, plans
        self._prompts, self._count = read_prompts(config.prompts.train), config.prompts_per_iteration
        self.size = config.samplers.request_size
        self.per_batch = config.batch_size // self.size

    def of_batch(self, batch: int) -> range:
        """The numbers of a batch."""
        return range(batch * self.per_batch, (batch + 1) * self.per_batch)

    def __getitem__(self, number: int) -> Request:
        batch, position = divmod(number, self.per_batch)
        seed, plan = self._config.seed, self._plans[batch]
        request = make_request(
            lambda group: prompt_of(self._prompts, batch, group, self._count, seed),
            range(position * self.size, (position + 1) * self.size),
            self._config.prompts.samples,
            seed,
            batch,
            plan.stored_steps,
            plan.share_init_noise,
            plan.clean,
            self._config.policy.steps,
            plan.noisy_steps,
        )
        return replace(request, kl=True, candidates=plan.candidates)
