"""AlignProp: DRaFT with a random number of last steps, one for each trajectory. It has no target; it maximises.

    L = -r( decode(x_0), c ),      x_next = a_t x_t + b_t o_theta(x_t) + std_t z   for the last K steps,  K ~ U{l..m}

x_(T-K) is held fixed. Short truncations bias the gradient towards the end of the chain and long ones let it explode;
the mean over K weighs a step by how often it is trained, 1 for the last, less for those before.

Source: Prabhudesai et al., "Aligning text-to-image diffusion models with reward backpropagation" (arXiv 2310.03739),
randomised truncated backpropagation. Its released code, and TRL's after it, draw K anew at every step of a chain, so
that steps are trained independently of each other instead of as the chain's end; and they may draw 0, which teaches
nothing. Here K is drawn once for each sample, from 1 on, and the steps before are not taken again at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, Field, model_validator
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


class AlignPropConfig(BaseModel, frozen=True, extra="forbid"):
    """Reward backpropagation through a random number of steps."""

    asks: ClassVar[Asks] = Asks(reward="gradients", noise="nowhere", first_order=True)

    name: Literal["alignprop"] = "alignprop"
    least: int = Field(1, ge=1, description="The fewest of the last steps with an adapter that are trained.")
    most: int | None = Field(None, ge=1, description="The most of them; null is all, as published.")
    checkpointing: bool = Field(
        True,
        description="Compute the network's inside again on the way back instead of keeping it: the memory of one step "
        "for about a third more time, and the same gradients.",
    )
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")

    @model_validator(mode="after")
    def _check(self) -> AlignPropConfig:
        if self.most is not None and self.most < self.least:
            raise ValueError(f"most is {self.most}, fewer steps than least, {self.least}; raise it, or set it to null")
        return self

    def build(self) -> AlignProp:
        """The objective."""
        return AlignProp(self)


class AlignProp(Objective):
    """Reward backpropagation, see the head of this file."""

    config: AlignPropConfig

    def __init__(self, config: AlignPropConfig) -> None:
        self.config = config

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        assert reward is not None
        self._reward = reward

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(last_adapted(chain, self.config.most))

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        choices = 1 + max(0, len(batch.steps) - self.config.least)  # first columns that leave enough steps
        for samples in split_samples(len(rows), self.config.updates, generator):
            # In their order, so that samples of one truncation are neighbours and go through the network together.
            columns = torch.randint(choices, (len(samples),), generator=generator).sort().values
            yield Part(rows[samples], columns[:, None])

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        predict = recomputed(policy) if self.config.checkpointing else policy.predict

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, float]]:
            rows, columns = part.samples[piece], part.columns.flatten()[piece]
            ends = [
                end_of_chain(policy, batch, rows[columns == column], column, predict)
                for column in columns.unique().tolist()  # ascending, as the rows are
            ]
            images = policy.decode(torch.cat(ends))
            value, scores = climbed(self._reward, images, [batch.prompts[row] for row in rows.tolist()])
            return -value.sum() / len(part.samples), {"loss": -float(scores.nansum()) / len(part.samples)}

        return backward_each(len(part.samples), loss, micro_batch=micro_batch, ranks=ranks)
