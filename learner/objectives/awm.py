"""Advantage-weighted matching: policy gradients in which the matching error of an image stands for its likelihood.

A sample's image x0 is noised to states of the chain; m is the mean square error there, t = sigma / (signal + sigma),

    lp  = -(t / p) ( (m + 1e-10)^p - 1e-10^p )                     rho = exp(lp_theta - lp_old)
    L   = mean max( -A rho, -A clip(rho, 1 - eps, 1 + eps) )  +  kl_weight m(theta, pretrained)
                                                              +  trail_weight m(theta, trailing)

with A the advantage in units of its largest. A denoising chain's own policy gradient is the same with the drawn x_next
in the place of x0, whose noise is what makes it slow. With one update a batch rho is 1 and the clip does nothing. rho
is a ratio of bounds, not of likelihoods. A < 0 has no lower bound; what holds it are the two distances.

Source: Xue et al., "Advantage Weighted Matching" (arXiv 2509.25050); numbers are the released code's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.decoupled import backward_each
from learner.forward_process import Noised, draw_steps, flow_time, noised, output_error, velocity_error
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.policy_gradient import clipped_surrogate
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import share_of, split_samples

OLD, TRAILING = "behaviour", "trailing"  # adapters: the policy that the batch found, and one that follows it
_LEAST = 1e-10


class AWMConfig(BaseModel, frozen=True, extra="forbid"):
    """Advantage-weighted matching."""

    name: Literal["awm"] = "awm"
    power: float = Field(0.25, gt=0, le=1, description="p of the likelihood's stand-in; 1 is -t m, .25 the code's.")
    error: Literal["velocity", "output"] = Field(
        "velocity",
        description="Of what m is the error: the velocity, as in the paper, or what the network predicts, which for "
        "networks of noise does not weigh the noisy end hundreds of times as much.",
    )
    clip_range: float = Field(1.0, gt=0, le=1, description="eps; the code's 1 never binds, since it updates once.")
    max_advantage: float = Field(5.0, gt=0, description="Advantages are clipped to this and divided by it.")
    kl_weight: float = Field(1e-3, ge=0, description="Weight of the distance from the pretrained model.")
    trail_weight: float = Field(1.0, ge=0, description="Weight of the distance from the adapter that trails behind.")
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")
    states: int = Field(6, ge=1, description="States to which each image is noised in an update, or all there are.")
    step_fraction: float = Field(
        0.85, gt=0, le=1, description="Share of the chain's states that they are drawn from, from the noisy end."
    )
    guided: bool = Field(False, description="Whether the loss is of the guided prediction; the paper has no guidance.")

    @property
    def asks(self) -> Asks:
        """From the second update on, ratios are to the policy that the batch found; no older one may have drawn it."""
        return Asks(groups=True, standardise="group_mean", noise="nowhere", current=self.updates > 1)

    def build(self) -> AWM:
        """The objective."""
        return AWM(self)


class AWM(Objective):
    """Advantage-weighted matching, see the head of this file."""

    config: AWMConfig

    def __init__(self, config: AWMConfig) -> None:
        self.config, self._steps = config, 0

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan((), clean=True)

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return tuple(range(share_of(chain.adapted_steps, self.config.step_fraction)))

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        policy.snapshot(TRAILING)
        self._states = len(self.trained_steps(policy.transitions))

    def begin(self, policy: Policy, batch: Batch, version: int) -> Batch:
        policy.snapshot(OLD)
        return batch

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        for number, samples in enumerate(split_samples(len(rows), self.config.updates, generator)):
            yield Part(rows[samples], draw_steps(len(samples), self._states, self.config.states, generator), number)

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        rows, steps = part.samples.repeat_interleave(part.columns.shape[1]), part.columns.flatten()
        advantages = (batch.rewards[rows] / self.config.max_advantage).clamp(-1, 1).to(policy.device)
        guided = self.config.guided

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            state = noised(policy, batch, rows[piece], steps[piece], part.number)
            new = state.image(policy, guided)
            log_prob = self._log_prob(policy, state, new)
            # One update a batch finds the policy that the batch found.
            old = log_prob.detach()
            if part.number:
                old = self._log_prob(policy, state, state.image_of(OLD, policy, guided))
            surrogate, clipped = clipped_surrogate(log_prob - old, advantages[piece], self.config.clip_range)
            value = surrogate.sum() / len(rows)
            metrics = {"loss": value.detach(), "clip/share": clipped.sum() / len(rows)}
            for name, adapter, weight in (
                ("pretrained", None, self.config.kl_weight),
                ("trailing", TRAILING, self.config.trail_weight),
            ):
                if weight:
                    away = self._error(policy, state, new, state.image_of(adapter, policy, guided)).sum() / len(rows)
                    value, metrics[f"distance/{name}"] = value + weight * away, away.detach()
            return value, metrics

        return backward_each(len(rows), loss, micro_batch=micro_batch, ranks=ranks)

    def end(self, policy: Policy, updates: int) -> None:
        self._steps += updates
        policy.snapshot(TRAILING, keep=min(1e-3 * self._steps, 0.3))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]

    def _error(self, policy: Policy, state: Noised, image: Tensor, other: Tensor) -> Tensor:
        error = velocity_error if self.config.error == "velocity" else output_error
        return error(policy.transitions, image, other, state.step)

    def _log_prob(self, policy: Policy, state: Noised, image: Tensor) -> Tensor:
        time = flow_time(policy.transitions, state.step, image)
        return stand_in(self._error(policy, state, image, state.clean), time, self.config.power)


def stand_in(error: Tensor, time: Tensor, power: float) -> Tensor:
    """lp of the head of this file, `(n,)`, of errors m and times t `(n,)`."""
    return -time / power * ((error + _LEAST) ** power - _LEAST**power)
