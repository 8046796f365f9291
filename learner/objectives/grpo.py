"""GRPO over the denoising chain: policy gradients whose baseline is the group.

    L = mean max( -A rho, -A clip(rho, 1 - eps, 1 + eps) )  +  kl_weight KL(pi_theta || pi_pretrained)

over samples and trained transitions, with rho = pi_theta / pi_old of each transition and A the reward standardised by
the samples of the same prompt in the batch. Groups whose samples are all as good teach nothing and are left out. The
published recipes are settings:

    Flow-GRPO     solver=flow_sde; A by the group's mean and the batch's deviation; kl_weight .04 or .01
    its Fast form window=2, window_moves=random, step_fraction=.56: the other steps follow the ODE; clip 1e-5, no KL
    DanceGRPO     solver=dance_sde, or ddim on SD 1.4; A by the group; share_init_noise; step_sample=.6; no KL
    MixGRPO       window=4, window_moves=forward, window_every=25
    GRPO-Guard    ratio=guard: rho = exp(mean (mu_theta - mu_old) z), without the bias of -|mu_theta - mu_old|^2 / 2
                  std^2 that keeps the plain log-ratio below 0, and each step's loss over its length: in time, or where
                  the network predicts no velocity |d mu / d output|
    Flow-DPPO     limit=divergence: a transition gives no gradient once KL(old || theta) has passed `max_divergence` and
                  the gradient would go on that way; nothing is clipped

Source: Liu et al., Flow-GRPO (arXiv 2505.05470); Xue et al., DanceGRPO (arXiv 2505.07818); Li et al., MixGRPO (arXiv
2507.21802); Wang et al., GRPO-Guard (arXiv 2510.22319). A window that MixGRPO's release lets run out at the end of the
chain here goes back to its start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions, kl
from learner.batch import Batch
from learner.decoupled import backward_each
from learner.likelihood import transition_of
from learner.objectives.objective import Asks, Objective, Part, Plan, refuse_unused
from learner.policy_gradient import clipped_surrogate, ratio_metrics
from learner.ranks import ALONE, Ranks
from learner.subsample import noisy_steps, share_of, split_groups


class GRPOConfig(BaseModel, frozen=True, extra="forbid"):
    """Group-relative policy optimisation; the defaults are Flow-GRPO's."""

    name: Literal["grpo"] = "grpo"
    ratio: Literal["plain", "guard"] = Field(
        "plain", description="The likelihood ratio, or GRPO-Guard's, whose clip range is another: 2e-6 in its paper."
    )
    limit: Literal["clip", "divergence"] = Field(
        "clip", description="What ends a transition's gradient: PPO's clip, or the divergence that it has come to."
    )
    clip_range: float = Field(1e-4, gt=0, lt=1, description="eps, of ratios of means over the dimensions.")
    max_divergence: float = Field(1e-5, gt=0, description="For limit=divergence: KL in nats per dimension.")
    max_advantage: float = Field(5.0, gt=0, description="Advantages are clipped to this.")
    kl_weight: float = Field(0.04, ge=0, description="Weight of KL(policy || pretrained) per step.")
    share_init_noise: bool = Field(False, description="All samples of a prompt start from the same x_T; DanceGRPO's.")
    keep: int | None = Field(
        None,
        ge=2,
        description="Of each group so many are trained on, half the best and half the worst; null: all.",
    )
    step_fraction: float = Field(1.0, gt=0, le=1, description="Share of the steps that is trained, from the noisy end.")
    step_sample: float = Field(
        1.0, gt=0, le=1, description="Share of those that an optimizer step draws at random; DanceGRPO's is .6."
    )
    window: int | None = Field(
        None, ge=1, description="Only so many neighbouring steps add noise and are trained; null: all of the above."
    )
    window_moves: Literal["stays", "forward", "random"] = Field(
        "forward", description="Where the window is: at the noisy end, a step further from time to time, or anywhere."
    )
    window_every: int = Field(25, ge=1, description="Iterations after which the window moves; 25 is MixGRPO's.")
    prompts_per_update: int | None = Field(None, ge=1, description="Groups of one optimizer step; null is all.")
    epochs: int = Field(1, ge=1, description="Passes over a batch.")

    @model_validator(mode="after")
    def _check(self) -> GRPOConfig:
        if self.keep is not None and self.keep % 2:
            raise ValueError("keep takes as many of the best as of the worst, so it is even")
        if self.limit == "clip":
            refuse_unused(self, "limit=divergence", "max_divergence")
        else:
            refuse_unused(self, "limit=clip", "clip_range")
        if self.window is None:
            refuse_unused(self, "window", "window_moves", "window_every")
        elif self.window_moves == "stays":
            refuse_unused(self, "window_moves=forward or random", "window_every")
        return self

    @property
    def asks(self) -> Asks:
        """GRPO-Guard's ratio and the divergence are of means."""
        means = self.ratio == "guard" or self.limit == "divergence"
        window = None if self.window is None else (self.window, self.step_fraction)
        return Asks(groups=True, keeps=self.keep, ratios=True, means=means, window=window, standardise="group_mean")

    def build(self) -> GRPO:
        """The objective."""
        return GRPO(self)


class GRPO(Objective):
    """Group-relative policy optimisation, see the head of this file."""

    config: GRPOConfig

    def __init__(self, config: GRPOConfig) -> None:
        self.config, self._flat = config, float("nan")

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        steps, noisy = self.trained_steps(chain), None
        if self.config.window is not None:
            places = len(steps) - self.config.window + 1
            moved = version // self.config.window_every
            place = {
                "stays": 0,
                "forward": moved % places,
                "random": int(np.random.default_rng((self.seed, moved)).integers(places)),
            }[self.config.window_moves]
            steps = steps[place : place + self.config.window]
            noisy = steps[0], steps[-1] + 1
        return Plan(steps, self.config.share_init_noise, noisy_steps=noisy)

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        steps = noisy_steps(chain.trainable_steps, self.config.step_fraction)
        return steps[: self.config.window] if self.config.window_moves == "stays" else steps

    def begin(self, policy: Policy, batch: Batch, version: int) -> Batch:
        kept, self._flat = informative(batch.rewards, batch.groups, self.config.keep)
        return batch.take(kept)

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        for _ in range(self.config.epochs):
            for samples, columns in split_groups(
                batch.groups, len(batch.steps), self.config.prompts_per_update, None, generator
            ):
                yield Part(samples, columns[: share_of(len(columns), self.config.step_sample)])

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        rows, cols = part.samples.repeat_interleave(len(part.columns)), part.columns.repeat(len(part.samples))
        config, most = self.config, self.config.max_advantage

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            step = transition_of(policy, batch, rows[piece], cols[piece], pretrained=config.kl_weight > 0)
            advantage = batch.rewards[rows[piece]].clamp(-most, most).to(step.mean.device)
            plain = step.log_prob - batch.log_probs[rows[piece], cols[piece]].to(step.mean.device)
            moved = step.mean - step.behaviour_mean
            log_ratio, length = plain, torch.ones_like(plain)
            if config.ratio == "guard":
                log_ratio = (moved * (step.x_next - step.behaviour_mean) / step.std).flatten(1).mean(dim=1)
                length = step_length(policy.transitions, batch.steps[cols[piece]]).to(plain)
            if config.limit == "clip":
                surrogate, ended = clipped_surrogate(log_ratio, advantage, config.clip_range)
            else:
                divergence = kl(step.behaviour_mean, step.mean, step.std)
                surrogate, ended = divergence_limited(log_ratio, advantage, divergence, config.max_divergence)
            value = (surrogate / length).sum() / len(rows)
            metrics = {"loss": value.detach(), **ratio_metrics(plain, ended, len(rows))}
            if step.pretrained_mean is not None:
                away = kl(step.mean, step.pretrained_mean, step.std).sum() / len(rows)
                value, metrics["kl/pretrained"] = value + config.kl_weight * away, away.detach()
            return value, metrics

        return backward_each(len(rows), loss, micro_batch=micro_batch, ranks=ranks)

    def metrics(self) -> dict[str, float]:
        return {"groups/flat": self._flat}


def informative(rewards: Tensor, groups: Tensor, keep: int | None) -> tuple[Tensor, float]:
    """The samples of a batch that teach something, and the share of groups that do not.

    Args:
        rewards: `(B,)`, NaN where a sample was dropped.
        groups: `(B,)` int64.
        keep: Of each group the `keep / 2` best and as many worst; `None` are all.

    Returns:
        Rows int64, ascending; and the share of groups whose rewards are all the same, NaN of no groups.
    """
    kept, flat, found = [], 0, groups.unique()
    for group in found:
        members = torch.nonzero((groups == group) & rewards.isfinite()).flatten()
        if len(members) < 2 or rewards[members].max() == rewards[members].min():
            flat += 1
            continue
        if keep is not None and keep < len(members):
            order = members[rewards[members].argsort(stable=True)]
            members = torch.cat([order[: keep // 2], order[-(keep // 2) :]])
        kept.append(members)
    rows = torch.cat(kept).sort().values if kept else torch.zeros(0, dtype=torch.int64)
    return rows, flat / len(found) if len(found) else float("nan")


def divergence_limited(log_ratio: Tensor, advantage: Tensor, divergence: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """-A rho where the divergence is below `most` or the gradient leads back, else 0; and where it is 0 (Flow-DPPO).

    `(n,)` each; who is left out stays in the divisor of a mean.
    """
    ratio = log_ratio.exp()
    outward = ((ratio > 1) & (advantage > 0)) | ((ratio < 1) & (advantage < 0))
    ended = ((divergence >= most) & outward).detach()
    return torch.where(ended, 0.0, -advantage * ratio), ended.float()


def step_length(transitions: Transitions, steps: Tensor) -> Tensor:
    """How far steps `(n,)` go, `(n,)` float32: in time, or |d mean / d output| where no velocity is predicted."""
    if transitions.prediction != "velocity":
        return transitions.output_weight.abs()[steps]
    time = transitions.sigma / (transitions.signal + transitions.sigma)
    return (time[:-1] - time[1:])[steps].float()
