"""D3PO: preference optimisation of single denoising steps, with hard-clamped ratios to the pretrained model.

    L = -log sigmoid( beta ( y_0 log rho_0 + y_1 log rho_1 ) ),   rho = clamp(pi_theta / pi_ref, 1 - eps, 1 + eps)

with labels y = (1, -1) where sample 0 is preferred. Samples of a pair start from the same noise, a tie (y = 0, 0)
counts in the mean as the constant ln 2, and one optimizer step sees one prompt at all of its steps.

Source: Yang et al., "Using Human Feedback to Fine-tune Diffusion Models without Any Reward Model" (CVPR 2024, arXiv
2311.13231); defaults are the released code's. It compares a *vector* of rewards by Pareto dominance, here the combined
reward decides.
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
from learner.likelihood import Likelihoods, backward
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.preferences import PairRule, clip_ratios, make_pairs, pair_metrics, preference_loss
from learner.ranks import ALONE, Ranks
from learner.subsample import noisy_steps, split_groups


class D3POConfig(BaseModel, frozen=True, extra="forbid"):
    """Direct preference for denoising diffusion policy optimisation."""

    asks: ClassVar[Asks] = Asks(groups=True, ratios=True)

    name: Literal["d3po"] = "d3po"
    beta: float = Field(
        0.1, gt=0, description="Scale of the margin; log-probabilities are means over dimensions, as in its code."
    )
    clip_range: float = Field(0.1, gt=0, lt=1, description="Ratios are clamped to within this distance of 1.")
    pairs: PairRule = Field("consecutive", description="Who is compared with whom among the samples of a prompt.")
    share_init_noise: bool = Field(True, description="All samples of a prompt start from the same x_T.")
    step_fraction: float = Field(1.0, gt=0, le=1, description="Share of the steps that is trained, from the noisy end.")
    steps_per_update: int | None = Field(None, ge=1, description="Sampler steps of one optimizer step; null is all.")
    prompts_per_update: int | None = Field(1, ge=1, description="Prompts of one optimizer step; null is all.")
    epochs: int = Field(1, ge=1, description="Passes over a batch.")

    def build(self) -> D3PO:
        """The objective."""
        return D3PO(self)


class D3PO(Objective):
    """Direct preference for denoising diffusion policy optimisation, see the head of this file."""

    config: D3POConfig

    def __init__(self, config: D3POConfig) -> None:
        self.config = config

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(noisy_steps(chain.trainable_steps, self.config.step_fraction), self.config.share_init_noise)

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        for _ in range(self.config.epochs):
            for samples, columns in split_groups(
                batch.groups, len(batch.steps), self.config.prompts_per_update, self.config.steps_per_update, generator
            ):
                yield Part(samples, columns)

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        rewards, groups = batch.rewards[part.samples], batch.groups[part.samples]

        def loss(likelihoods: Likelihoods) -> tuple[Tensor, dict[str, float]]:
            return d3po_loss(self.config, likelihoods, rewards, groups)

        return backward(
            policy,
            batch,
            part.samples,
            part.columns,
            loss,
            micro_batch=micro_batch,
            reference="pretrained",
            ranks=ranks,
        )


def d3po_loss(
    config: D3POConfig, likelihoods: Likelihoods, rewards: Tensor, groups: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """The loss of the head of this file, and its metrics.

    Args:
        config: Its numbers.
        likelihoods: Of b samples at k steps.
        rewards: `(b,)`, NaN where a sample was dropped.
        groups: `(b,)` int64.
    """
    g = likelihoods.log_ratio
    pairs = make_pairs(rewards, groups, config.pairs, keep_ties=True)
    if not len(pairs):  # everyone dropped: nothing to learn, but the update goes through
        return 0.0 * g.sum(), {"pairs": 0.0, "loss": 0.0}
    clipped = clip_ratios(g, likelihoods.anchor, config.clip_range, "hard", winner=True)
    winner, loser = pairs.winner, pairs.loser
    strict = (pairs.gap > 0).float()[:, None]  # a tie has no margin: a constant loss
    value = preference_loss(strict * (clipped[winner] - clipped[loser]), config.beta).mean()
    metrics = pair_metrics(g[winner], g[loser], clipped[winner], clipped[loser])
    return value, metrics | {"loss": float(value.detach())}
