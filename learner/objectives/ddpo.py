"""DDPO: policy gradients over the denoising chain.

    importance   L = mean max( -A rho, -A clip(rho, 1 - eps, 1 + eps) ),   rho = pi_theta(x_next | x, c) / pi_old(...)
    score        L = -mean A log pi_theta(x_next | x, c),   one optimizer step a batch: later ones would be off policy

over samples and the stored transitions of each. A is the reward standardised by the last scores of its prompt
(`combination.standardise=prompt`), clipped. There is no KL and no value function.

Source: Black et al., "Training Diffusion Models with Reinforcement Learning" (arXiv 2305.13301); defaults are those of
its released PyTorch code with LoRA.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.decoupled import backward_each
from learner.likelihood import log_probs_of
from learner.objectives.objective import Asks, Objective, Part, Plan, refuse_unused
from learner.policy_gradient import clipped_surrogate, ratio_metrics
from learner.ranks import ALONE, Ranks
from learner.subsample import noisy_steps, split_samples


class DDPOConfig(BaseModel, frozen=True, extra="forbid"):
    """Denoising diffusion policy optimisation."""

    name: Literal["ddpo"] = "ddpo"
    gradient: Literal["importance", "score"] = Field(
        "importance", description="Clipped importance sampling, or the score function of one step a batch."
    )
    clip_range: float = Field(1e-4, gt=0, lt=1, description="eps, of ratios of means over the dimensions.")
    max_advantage: float = Field(5.0, gt=0, description="Advantages are clipped to this.")
    step_fraction: float = Field(1.0, gt=0, le=1, description="Share of the steps that is trained, from the noisy end.")
    updates: int = Field(4, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")
    epochs: int = Field(1, ge=1, description="Passes over a batch.")

    @model_validator(mode="after")
    def _check(self) -> DDPOConfig:
        if self.gradient == "score" and self.updates * self.epochs > 1:
            raise ValueError("gradient=score is right on policy alone, so it needs updates=1 and epochs=1")
        if self.gradient == "score":
            refuse_unused(self, "gradient=importance", "clip_range")
        return self

    @property
    def asks(self) -> Asks:
        """The score function is taken where the policy sampled, so it has no ratio, and no older samples."""
        score = self.gradient == "score"
        return Asks(ratios=not score, current=score, standardise="prompt")

    def build(self) -> DDPO:
        """The objective."""
        return DDPO(self)


class DDPO(Objective):
    """Denoising diffusion policy optimisation, see the head of this file."""

    config: DDPOConfig

    def __init__(self, config: DDPOConfig) -> None:
        self.config = config

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(noisy_steps(chain.trainable_steps, self.config.step_fraction))

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        for _ in range(self.config.epochs):
            for samples in split_samples(len(rows), self.config.updates, generator):
                yield Part(rows[samples], torch.arange(len(batch.steps)))

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        rows = part.samples.repeat_interleave(len(part.columns))
        cols, most = part.columns.repeat(len(part.samples)), self.config.max_advantage

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            log_prob = log_probs_of(policy, batch, rows[piece], cols[piece])
            advantage = batch.rewards[rows[piece]].clamp(-most, most).to(log_prob.device)
            log_ratio = log_prob - batch.log_probs[rows[piece], cols[piece]].to(log_prob.device)
            if self.config.gradient == "score":
                value = -(advantage * log_prob).sum() / len(rows)
                return value, {"loss": value.detach()}
            surrogate, clipped = clipped_surrogate(log_ratio, advantage, self.config.clip_range)
            value = surrogate.sum() / len(rows)
            return value, {"loss": value.detach(), **ratio_metrics(log_ratio, clipped, len(rows))}

        return backward_each(len(rows), loss, micro_batch=micro_batch, ranks=ranks)
