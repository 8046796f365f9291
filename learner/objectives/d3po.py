"""D3PO (Yang et al., arXiv 2311.13231): per-step preference optimisation with hard-clamped ratios, a preset of PPOD.

    L = -log sigmoid( beta ( y_0 log rho_0 + y_1 log rho_1 ) ),   rho = clamp(pi_theta / pi_ref, 1 - eps, 1 + eps)

Samples of a pair start from the same noise, the reference stays the pretrained model, a tie (y = 0, 0) counts in the
mean as the constant ln 2, and one optimizer step sees one prompt at all of its steps. Defaults are the released code's;
it compares a *vector* of rewards by Pareto dominance, here the combined reward decides.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from learner.objectives.ppod import PPODConfig
from learner.preferences import Clip


class D3POConfig(PPODConfig, frozen=True, extra="forbid"):
    """Direct preference for denoising diffusion policy optimisation."""

    name: Literal["d3po"] = "d3po"  # type: ignore[assignment]
    beta: float = Field(0.1, gt=0, description="Scale of the margin.")
    clip: Clip = Field("hard", description="Reading of the proximal clip.")
    clip_range: float = Field(0.1, gt=0, lt=1, description="Half width of the band around ratio 1.")
    reference: Literal["pretrained", "round"] = Field("pretrained", description="Reference policy.")
    pairs: Literal["consecutive", "best_worst", "all_pairs", "ranking"] = Field(
        "consecutive", description="Who meets whom."
    )
    min_gap: float = Field(0.0, ge=0, description="Rewards that differ by no more than this are tied.")
    kl_weight: float = Field(0.0, ge=0, description="Weight of KL(policy || pretrained) per step.")
    ties: Literal["drop", "keep"] = Field("keep", description="Ties count in the mean, without gradient.")
    share_init_noise: bool = Field(True, description="All samples of a prompt start from the same x_T.")
    step_fraction: float = Field(1.0, gt=0, le=1, description="Share of the steps that is trained, from the noisy end.")
    steps_per_update: int | None = Field(None, ge=1, description="Sampler steps of one optimizer step; null is all.")
    prompts_per_update: int | None = Field(1, ge=1, description="Prompts of one optimizer step; null is all.")
