"""What the learner asks of an algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.flow_function import Flow
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel


@dataclass(frozen=True)
class Part:
    """The share of a batch that one optimizer step trains on: k of the stored transitions of each of b samples."""

    samples: Tensor  # (b,) int64, rows of the batch
    columns: Tensor  # (k,) int64, columns of the batch, the same for every sample; or (b, k), each its own


class Objective(ABC):
    """An algorithm: which transitions it needs, how it cuts a batch into optimizer steps, and its gradient.

    Attributes:
        needs_groups: Whether it compares samples of the same prompt (then there must be at least two).
        share_init_noise: Whether all samples of a prompt start from the same x_T.
        offline_batches: Train on this many batches, drawn once from the pretrained model; 0 is online.
        needs_reward: What it asks of the reward model while it trains: nothing, `scores` of other images than the
            sampled ones, or their `gradients` too. Such a method aims at exp(beta r), so r must not be normalised.
        flow: The flow function that it trains beside the policy, if it has one; made by `attach`.
    """

    needs_groups: ClassVar[bool] = False
    needs_reward: ClassVar[Literal["nothing", "scores", "gradients"]] = "nothing"
    flow: Flow | None = None
    share_init_noise: bool = False
    offline_batches: int = 0

    @abstractmethod
    def trained_steps(self, stochastic_steps: tuple[int, ...]) -> tuple[int, ...]:
        """The sampler steps whose transitions are to be stored, out of those that have a density."""

    def check(self, transitions: Transitions) -> None:
        """Called before anything is made: refuse a chain that cannot be trained on.

        Raises:
            ValueError: In one sentence.
        """
        if not transitions.stochastic_steps:
            raise ValueError(
                f"No step of the chain adds noise, so none has the density that {type(self).__name__} trains on; set "
                "policy.eta above 0 (1 is as stochastic as DDPM), and policy.steps to at least 2."
            )

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:  # noqa: B027
        """Called once, before anything else: make what depends on the policy, and keep the reward model.

        Args:
            policy: What will be trained.
            reward: The run's weighted reward, for objectives that need it; `None` where none does.
        """

    def begin(self, policy: Policy, version: int) -> None:  # noqa: B027
        """Called before the update of each batch; moves a reference where there is one."""

    @abstractmethod
    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        """Cut a batch into the parts of successive optimizer steps."""

    @abstractmethod
    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        """Add this rank's share of the gradient of one part to the policy's parameters.

        The shares of all ranks sum to the gradient of the part, and every rank must call.

        Args:
            policy: With gradients cleared.
            batch: The whole batch.
            part: What to train on.
            micro_batch: Transitions that go through the network at a time.
            ranks: Who shares the part; `ranks.pieces` are this rank's micro-batches.

        Returns:
            Metrics of the part, the same on every rank; averaged over the parts of a batch before they are logged.
        """
