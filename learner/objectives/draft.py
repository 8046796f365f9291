"""DRaFT: the reward's gradient goes back through the chain's last steps. It has no target; it maximises.

    L = -r( decode(x_0), c ),      x_next = a_t x_t + b_t o_theta(x_t) + std_t z   for the last K steps,

with x_(T-K), the state before them, held fixed. K is `steps`: 1 is the paper's cheapest form, `null` goes through the
whole chain. What acts on the gradient is the product of the steps' Jacobians, which grows with K.

Source: Clark et al., "Directly fine-tuning diffusion models on differentiable rewards" (ICLR 2024, arXiv 2309.17400),
DRaFT and DRaFT-K. The paper samples and trains in one go; here the samplers have drawn the chain, and the learner takes
its last K steps again, with their noise (`learner/direct_gradient.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.decoupled import backward_each
from learner.direct_gradient import climbed, end_of_chain, last_adapted, recomputed
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import split_samples


class DRaFTConfig(BaseModel, frozen=True, extra="forbid"):
    """Direct reward fine-tuning."""

    asks: ClassVar[Asks] = Asks(reward="gradients", noise="nowhere", first_order=True)

    name: Literal["draft"] = "draft"
    steps: int | None = Field(
        1,
        ge=1,
        description="How many of the last steps with an adapter are trained, the paper's K; null is all.",
    )
    checkpointing: bool = Field(
        True,
        description="Where there is more than one step, compute the network's inside again on the way back instead of "
        "keeping it: the memory of one step for about a third more time, and the same gradients.",
    )
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")

    def build(self) -> DRaFT:
        """The objective."""
        return DRaFT(self)


class DRaFT(Objective):
    """Direct reward fine-tuning, see the head of this file."""

    config: DRaFTConfig

    def __init__(self, config: DRaFTConfig) -> None:
        self.config = config

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        assert reward is not None
        self._reward = reward
        (self._stored,) = self.plan(policy.transitions).stored_steps

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(self.trained_steps(chain)[:1])

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return last_adapted(chain, self.config.steps)

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        for samples in split_samples(len(rows), self.config.updates, generator):
            yield Part(rows[samples], torch.nonzero(batch.steps == self._stored).flatten())

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        (column,) = part.columns.tolist()
        several = self._stored < len(policy.transitions) - 1
        predict = recomputed(policy) if several and self.config.checkpointing else policy.predict

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, float]]:
            rows = part.samples[piece]
            images = policy.decode(end_of_chain(policy, batch, rows, column, predict))
            value, scores = climbed(self._reward, images, [batch.prompts[row] for row in rows.tolist()])
            return -value.sum() / len(part.samples), {"loss": -float(scores.nansum()) / len(part.samples)}

        return backward_each(len(part.samples), loss, micro_batch=micro_batch, ranks=ranks)
