"""The learner actor: one process that owns the trainable policy, its optimizer and the checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch.distributed import TCPStore

from actors.chain_kl import describe_steps
from actors.config import PolicyConfig
from actors.model_check import check_prompts
from actors.model_files import fetch
from actors.policy import Policy
from actors.trajectories import Trajectories, Weights
from learner import checkpoint
from learner.advantages import Advantages
from learner.batch import Batch, collate
from learner.learner import Learner, LearnerConfig, Update
from learner.objectives import ObjectiveConfig
from learner.objectives.objective import Plan
from learner.ranks import join, listen
from learner.reward_gradient import RewardModel
from learner.spending import ImageSource

# Of the adapters that it can hand out: the one that acts, the trained one (which is the same for most objectives) and
# its exponential average, and the one that the run began with.
Which = Literal["acting", "trained", "averaged", "initial"]


class LearnerActor:
    """Trains on rollouts out of the object store; made a Ray actor by `cluster.crew`.

    Args:
        config: The optimizer.
        policy: The policy, as the samplers have it.
        objective: The algorithm.
        seed: Of the run.
        iterations: Of the run.
        advantages: How raw scores become what the objective learns from.
        reward: Makes the reward model that the objective asks while it trains; `None` where it asks for none.
        first_step: That rollouts begin with, where prompts have start images.
        source: Of the batches' images, see `Spending`.
    """

    def __init__(
        self,
        config: LearnerConfig,
        policy: PolicyConfig,
        objective: ObjectiveConfig,
        seed: int,
        iterations: int,
        advantages: Advantages,
        reward: Callable[[], RewardModel] | None = None,
        first_step: int = 0,
        source: ImageSource = "drawn",
    ) -> None:
        made, self._advantages = reward() if reward else None, advantages
        self._policy = Policy.load(policy, seed)
        self._policy.transitions = replace(self._policy.transitions, first_step=first_step)
        self._objective = objective.build()
        self._learner = Learner(config, self._policy, self._objective, seed, made, iterations, source)
        self._initial = self._learner.weights()
        self._store: TCPStore | None = None

    def listen(self, address: str) -> int:
        """Rank 0: wait for the other ranks at an address of this machine; returns the port."""
        self._store = listen(address)
        return self._store.port

    def join(self, rank: int, addresses: Sequence[str], port: int, timeout: float) -> None:
        """Share each batch with other ranks from now on, see `learner.ranks.join`; every rank must be told to.

        Raises:
            RankLost: If they did not all come.
        """
        self._learner.ranks = join(rank, addresses, self._store or port, timeout, self._policy.device)

    def plans(self, batches: int) -> tuple[Plan, ...]:
        """What the objective wants the rollouts of so many batches to be like, one a batch from the run's first.

        Said once and for all, so that samplers can work ahead and the loop never waits for an answer.
        """
        chain, known = self._policy.transitions, dict[Plan, Plan]()
        made = (self._objective.plan(chain, version) for version in range(batches))
        return tuple(known.setdefault(plan, plan) for plan in made)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse what the model would not read whole: of one from a hub nobody knew before it was fetched.

        Raises:
            ValueError: In one sentence.
        """
        config = self._policy.config
        check_prompts(config, prompts, fetch(config.model, config.variant))

    def work(self, groups: int, samples: int) -> tuple[int, int, int]:
        """Optimizer steps that a batch of groups x samples takes, the most transitions that one of them sees, and the
        bytes of the weights that are published after it.
        """
        size, nothing = groups * samples, torch.empty(0)
        stored = torch.tensor(self._objective.plan(self._policy.transitions).stored_steps)
        batch = Batch(
            nothing, nothing, nothing, stored, ("",) * size, torch.arange(size) // samples, torch.zeros(size), 0
        )
        parts = list(self._objective.parts(batch, torch.Generator()))
        return len(parts), max(len(part.samples) * part.columns.shape[-1] for part in parts), self._initial.flat.nbytes

    def steps(self) -> str:
        """Where the adapter acts, in a line."""
        return describe_steps(self._policy.transitions)

    def update(
        self,
        scores: Mapping[str, np.ndarray],
        *trajectories: Trajectories,
        candidates: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[Update, Weights | None]:
        """Apply a batch; two Ray objects, so that the driver fetches the metrics and not the weights.

        Args:
            scores: `(B,)` float32 of each reward over all samples in the order of `trajectories`, NaN where one could
                not be judged.
            trajectories: One iteration's rollouts, in request order.
            candidates: `(B, K, M)` float32 of each reward that judged those of the trajectories, where they have some.

        Returns:
            What it did, and the weights; of several ranks the first alone gives them.
        """
        groups = np.concatenate([t.prompt_index for t in trajectories])
        rewards, metrics = self._advantages.of(scores, groups, [prompt for t in trajectories for prompt in t.prompts])
        judged = self._advantages.weighted(candidates) if candidates else None
        update = self._learner.step(collate(trajectories, rewards, scores, judged))
        update = replace(update, metrics=metrics | update.metrics)
        return update, None if self._learner.ranks.rank else self._learner.weights()

    def weights(self, which: Which = "acting") -> Weights:
        """One of its adapters; `initial` is what the run began with, whatever was restored."""
        return self._initial if which == "initial" else self._learner.weights(which)

    def save(self, folder: str, keep: int) -> None:
        """Write a checkpoint of this version into `folder`."""
        with checkpoint.writing(Path(folder), self._learner.version, keep) as temporary:
            self._learner.save(temporary, {"advantages": self._advantages.state_dict()})

    def restore(self, path: str) -> int:
        """Continue from a checkpoint; returns its version.

        Raises:
            CheckpointError: If it is damaged, or whole but of another learner.
        """
        checkpoint.verify(Path(path))
        try:
            self._advantages.load_state_dict(self._learner.restore(Path(path))["advantages"])
        except Exception as error:  # of any library that reads files; a loss of ranks cannot come here
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise checkpoint.CheckpointError(f"The checkpoint {path} cannot be continued from ({said}).") from error
        return self._learner.version
