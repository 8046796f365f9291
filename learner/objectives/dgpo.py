"""DGPO: direct preference between the better and the worse part of a group, in the forward process.

Noised to the same states with the same noise, m_i and m_i^ref are a sample's mean square errors under the policy and
under the reference; A_i are advantages of a group of G, which sum to 0, so that whatever is common to a group cancels:

    S = (beta / G) sum_i A_i (m_i - m_i^ref)            L = softplus(S) / beta  +  kl_weight mean m(x0, x0^ref)
    gradient of the first term: sigmoid(S) (1 / G) sum_i A_i grad m_i

where m(x0, x0^ref) is the same error between both predictions, and an m_i gives no gradient once its ratio
rho = exp(m_i^old - m_i) to the trailing adapter has left the band on the side that its advantage pushes to. Samples are
drawn by the trailing adapter, old <- d old + (1 - d) theta.

Source: Luo et al., "DGPO" (arXiv 2510.08425). Its released loss lacks the factor beta of the paper's, as here: beta
sharpens the weights and does not scale the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.coupled import backward_coupled
from learner.forward_process import draw_steps, noised, output_error, velocity_error
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import share_of, split_groups

OLD = "behaviour"  # the trailing adapter


class DGPOConfig(BaseModel, frozen=True, extra="forbid"):
    """Direct group preference optimisation."""

    asks: ClassVar[Asks] = Asks(groups=True, standardise="group_mean", noise="nowhere")

    name: Literal["dgpo"] = "dgpo"
    beta: float = Field(100.0, gt=0, description="Sharpness of the preference; 10 for PickScore in the released code.")
    error: Literal["velocity", "output"] = Field(
        "velocity",
        description="Of what m and the distance are: the velocity, as in the paper, or the output.",
    )
    clip_range: float = Field(0.01, gt=0, le=1, description="Half width of the band around ratio 1; the code's is .01.")
    max_advantage: float = Field(5.0, gt=0, description="Advantages are clipped to this.")
    kl_weight: float = Field(0.02, ge=0, description="Weight of the distance from the pretrained model.")
    prompts_per_update: int | None = Field(None, ge=1, description="Groups of one optimizer step; null is all.")
    states: int = Field(4, ge=1, description="States to which the images are noised in an update, the same for all.")
    step_fraction: float = Field(
        0.7, gt=0, le=1, description="Share of the chain's states that they are drawn from, from the noisy end."
    )
    guided: bool = Field(False, description="Whether the loss is of the guided prediction; the paper has no guidance.")

    def build(self) -> DGPO:
        """The objective."""
        return DGPO(self)


class DGPO(Objective):
    """Direct group preference optimisation, see the head of this file."""

    config: DGPOConfig

    def __init__(self, config: DGPOConfig) -> None:
        self.config, self._steps = config, 0

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan((), clean=True, acts_with=OLD)

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return tuple(range(share_of(chain.adapted_steps, self.config.step_fraction)))

    def kept_latents(self, chain: Transitions, prompts: int, samples: int) -> int:
        together = min(prompts, self.config.prompts_per_update or prompts)
        return together * samples * min(self.config.states, len(self.trained_steps(chain)))

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        self._states = len(self.trained_steps(policy.transitions))

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        shares = split_groups(batch.groups, 1, self.config.prompts_per_update, None, generator)
        judged = (samples for samples, _ in shares if batch.rewards[samples].isfinite().any())  # not all were dropped
        for number, samples in enumerate(judged):
            yield Part(samples, draw_steps(1, self._states, self.config.states, generator)[0], number)

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        samples = part.samples[batch.rewards[part.samples].isfinite()]  # those that were not dropped
        shape = (len(samples), len(part.columns))
        rows, steps = samples.repeat_interleave(shape[1]), part.columns.repeat(shape[0])
        advantages = batch.rewards[samples].clamp(-self.config.max_advantage, self.config.max_advantage)
        guided, difference = self.config.guided, velocity_error if self.config.error == "velocity" else output_error
        assert batch.clean is not None
        # The pretrained model's images for a later pass with a gradient, in the host's memory.
        kept = batch.clean.new_empty(len(rows), *batch.clean.shape[1:])

        def evaluate(piece: Tensor, again: bool) -> list[Tensor]:
            at = steps[piece]
            state = noised(policy, batch, rows[piece], at, part.number, per_group=True)

            def error(image: Tensor, other: Tensor = state.clean) -> Tensor:
                return difference(policy.transitions, image, other, at)

            before = kept[piece].to(policy.device) if again else state.image_of(None, policy, guided)
            new = state.image(policy, guided)
            found = [error(new), error(new, before)]
            if not again:
                kept[piece] = before.to(kept.device)
                found += [error(before), error(state.image_of(OLD, policy, guided))]
            return found

        def loss(table: Tensor) -> tuple[Tensor, dict[str, float]]:
            new, away, before, old = table.view(4, *shape)
            value, metrics = dgpo_loss(
                new, before.detach(), old.detach(), advantages.to(new.device), batch.groups[samples], self.config
            )
            metrics["distance/pretrained"] = float(away.detach().mean())
            return value + self.config.kl_weight * away.mean(), metrics

        return backward_coupled(
            len(rows), 4, evaluate, loss, micro_batch=micro_batch, device=policy.device, ranks=ranks
        )

    def end(self, policy: Policy, updates: int) -> None:
        self._steps += updates
        policy.snapshot(OLD, keep=min(1e-3 * self._steps, 0.3))

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]


def dgpo_loss(
    new: Tensor, before: Tensor, old: Tensor, advantages: Tensor, groups: Tensor, config: DGPOConfig
) -> tuple[Tensor, dict[str, float]]:
    """The first term of the head of this file, a mean over groups and states, and its metrics.

    Args:
        new: m, `(b, k)` with gradient.
        before: m of the pretrained model.
        old: m of the trailing adapter.
        advantages: A, `(b,)`.
        groups: `(b,)` int64; every group is here whole.
        config: Its numbers.
    """
    weight = advantages[:, None]
    ratio = (old - new).detach().exp()
    outside = ((weight > 0) & (ratio > 1 + config.clip_range)) | ((weight < 0) & (ratio < 1 - config.clip_range))
    held = torch.where(outside, new.detach(), new)
    found, index = groups.unique(return_inverse=True)
    index = index.to(new.device)

    def per_group(values: Tensor) -> Tensor:
        sums = values.new_zeros(len(found), values.shape[1]).index_add(0, index, values)
        return sums / index.bincount(minlength=len(found))[:, None]

    preference = config.beta * per_group(weight * (held - before))
    value = F.softplus(preference).mean() / config.beta
    return value, {
        "loss": float(value.detach()),
        "margin/mean": float(-preference.detach().mean() / config.beta),
        "clip/share": float(outside.float().mean()),
    }
