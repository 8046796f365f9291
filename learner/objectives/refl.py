"""ReFL: maximise the reward of the predicted image, directly. It has no target distribution; it is the contrast.

    L = -r( decode( x0_theta(x_t) ) )               at one late step t of each chain, drawn evenly from the last
    L = scale relu( threshold - r( ... ) )          `step_fraction`; the second with a `threshold`

The gradient runs through the decoder and one evaluation of the UNet, the way to x_t is not differentiated.

Source: Xu et al., ImageReward (NeurIPS 2023, arXiv 2304.05977), section 3. The released script has threshold=2, on
ImageReward's scale, scale=1e-3 and guided=false, and samples without guidance as well (policy.guidance=1).
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
from learner.direct_gradient import climbed
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import share_of, split_samples


class ReFLConfig(BaseModel, frozen=True, extra="forbid"):
    """Reward feedback learning."""

    asks: ClassVar[Asks] = Asks(reward="gradients")

    name: Literal["refl"] = "refl"
    step_fraction: float = Field(0.25, gt=0, le=1, description="Share of the steps, from the image's end.")
    threshold: float | None = Field(
        None, description="Images whose reward is above this teach nothing; null: all do. ImageReward's script has 2."
    )
    scale: float = Field(
        1.0,
        gt=0,
        description="Factor of the loss, which AdamW sees through learner.max_grad_norm alone; 1e-3 as released.",
    )
    guided: bool = Field(
        True,
        description="Whether the image is predicted with guidance, as it is sampled; the released script has none.",
    )
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")

    def build(self) -> ReFL:
        """The objective."""
        return ReFL(self)


class ReFL(Objective):
    """Reward feedback learning, see the head of this file."""

    config: ReFLConfig

    def __init__(self, config: ReFLConfig) -> None:
        self.config = config

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        assert reward is not None
        self._reward = reward

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(chain.trainable_steps[-share_of(len(chain.trainable_steps), self.config.step_fraction) :])

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        for samples in split_samples(len(rows), self.config.updates, generator):
            yield Part(rows[samples], torch.randint(len(batch.steps), (len(samples), 1), generator=generator))

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        def loss(piece: Tensor) -> tuple[Tensor, dict[str, float]]:
            rows, cols = part.samples[piece], part.columns.flatten()[piece]
            prompts = [batch.prompts[row] for row in rows.tolist()]
            x = batch.latents[rows, cols].to(policy.device)
            images = policy.decode(policy.clean(x, batch.steps[cols], policy.encode(prompts), self.config.guided))
            value, scores = climbed(self._reward, images, prompts)
            cost = -scores
            if self.config.threshold is not None:
                value, cost = value * (scores < self.config.threshold), (self.config.threshold - scores).relu()
            share = self.config.scale / len(part.samples)
            return -share * value.sum(), {"loss": share * float(cost.nansum())}

        return backward_each(len(part.samples), loss, micro_batch=micro_batch, ranks=ranks)
