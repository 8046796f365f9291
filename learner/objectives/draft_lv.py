"""DRaFT-LV: DRaFT through one step, with the variance of that step's noise averaged out.

    x^(i) = a x_0 + s n_i,   i = 1 ... n       L = -(1/n) sum_i r( decode( x0_theta(x^(i)) ), c )

The sampled image x_0 is held fixed and noised again, n times, to the chain's last state (a its signal, s its noise) or
one before it (`level`); each is denoised in one step. The chain is drawn once for n gradients.

Source: Clark et al., "Directly fine-tuning diffusion models on differentiable rewards" (ICLR 2024, arXiv 2309.17400),
section on low-variance gradients; n = 2 there. The noises' keys are the sample's, so that every rank and every resumed
run draws the same.
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
from learner.direct_gradient import climbed, last_adapted
from learner.forward_process import noised
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import split_samples


class DRaFTLVConfig(BaseModel, frozen=True, extra="forbid"):
    """Direct reward fine-tuning through one step, with low variance."""

    asks: ClassVar[Asks] = Asks(reward="gradients", noise="nowhere")

    name: Literal["draft_lv"] = "draft_lv"
    noises: int = Field(2, ge=1, description="How often each image is noised again; 2 is the paper's.")
    level: int = Field(
        1,
        ge=1,
        description="To which state images are noised: where the last step with an adapter begins (1, the paper's), "
        "the one before it (2), or at most the first. Where the last steps hardly change an image, its gradient hardly "
        "sees the network.",
    )
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")

    def build(self) -> DRaFTLV:
        """The objective."""
        return DRaFTLV(self)


class DRaFTLV(Objective):
    """Direct reward fine-tuning through one step, see the head of this file."""

    config: DRaFTLVConfig

    def __init__(self, config: DRaFTLVConfig) -> None:
        self.config = config

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        assert reward is not None
        self._reward = reward
        (self._step,) = self.trained_steps(policy.transitions)

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan((), clean=True)

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return last_adapted(chain, self.config.level)[:1]

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        for samples in split_samples(len(rows), self.config.updates, generator):
            yield Part(rows[samples], torch.full((len(samples), self.config.noises), self._step))

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        rows, steps = part.samples.repeat_interleave(self.config.noises), part.columns.flatten()
        draws = torch.arange(self.config.noises).repeat(len(part.samples))

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, float]]:
            state = noised(policy, batch, rows[piece], steps[piece], draws[piece])
            images = policy.decode(state.image(policy, guided=True))
            value, scores = climbed(self._reward, images, [batch.prompts[row] for row in rows[piece].tolist()])
            return -value.sum() / len(rows), {"loss": -float(scores.nansum()) / len(rows)}

        return backward_each(len(rows), loss, micro_batch=micro_batch, ranks=ranks)
