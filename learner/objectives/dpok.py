"""DPOK: policy gradients with a value function and a KL to the pretrained model.

    L = mean( -w A rho' ) + kl_weight D,    A = r - V(x_t, c, t),    rho' = clamp(pi_theta / pi_old, 1 - eps, 1 + eps)

over transitions drawn from the last `buffer` batches, so that most are a little off policy. rho' is clamped without
PPO's larger of the two: outside of the band a transition has no gradient, whichever way it would lead. D is either what
the released code has, the mean square difference of the guided predictions of policy and pretrained model, or the exact
KL of the transition, which weighs each step by what it does to the state. V is fitted to r once a batch.

Source: Fan et al., "DPOK" (arXiv 2305.16381) and its released code, whose numbers these are; its latents in half
precision, which cost a third of the transitions of the last step their gradient, are float32 here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions, kl
from learner.batch import Batch, joined
from learner.decoupled import backward_each
from learner.forward_process import mean_square
from learner.likelihood import transition_of
from learner.objectives.objective import Asks, Objective, Part, Plan, refuse_unused
from learner.policy_gradient import ratio_metrics
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.value_function import Value, ValueConfig


class DPOKConfig(BaseModel, frozen=True, extra="forbid"):
    """Diffusion policy optimisation with KL regularisation."""

    asks: ClassVar[Asks] = Asks(ratios=True, older=True, standardise="nothing")

    name: Literal["dpok"] = "dpok"
    weight: float = Field(10.0, gt=0, description="w, of the reward; 10 for one prompt, 1000 for many.")
    kl_weight: float = Field(0.01, ge=0, description="Weight of D; .01 for one prompt, .1 for many.")
    divergence: Literal["prediction", "exact"] = Field(
        "prediction", description="D: the predictions' mean square difference, or the transition's KL."
    )
    clip_range: float = Field(1e-4, gt=0, lt=1, description="eps, of ratios of means over the dimensions.")
    buffer: int = Field(2, ge=1, description="Batches that transitions are drawn from; 2 of 10 x 50 are the code's.")
    updates: int = Field(5, ge=1, description="Optimizer steps of a batch.")
    transitions: int = Field(48, ge=1, description="Transitions of each, drawn without repeats from the buffer.")
    value: ValueConfig | None = Field(ValueConfig(), description="The value function; null is V = 0.")

    @model_validator(mode="after")
    def _check(self) -> DPOKConfig:
        if not self.kl_weight:
            refuse_unused(self, "kl_weight", "divergence")
        return self

    def build(self) -> DPOK:
        """The objective."""
        return DPOK(self)


class DPOK(Objective):
    """Diffusion policy optimisation with KL regularisation, see the head of this file."""

    config: DPOKConfig

    def __init__(self, config: DPOKConfig) -> None:
        self.config, self.modules = config, {}
        self._kept: deque[Batch] = deque(maxlen=config.buffer)

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(chain.trainable_steps)

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        if self.config.value is not None:
            self.modules = {"value": Value(self.config.value, policy)}

    def begin(self, policy: Policy, batch: Batch, version: int) -> Batch:
        self._kept.append(batch.take(torch.nonzero(batch.rewards.isfinite()).flatten()))
        return joined(list(self._kept))

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        steps = len(batch.steps)
        order = torch.randperm(len(batch.prompts) * steps, generator=generator)
        for number, drawn in enumerate(order.split(self.config.transitions)[: self.config.updates]):
            yield Part(drawn // steps, (drawn % steps)[:, None], number)

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        rows, cols, config = part.samples, part.columns.flatten(), self.config

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            step = transition_of(policy, batch, rows[piece], cols[piece], pretrained=config.kl_weight > 0)
            log_ratio = step.log_prob - batch.log_probs[rows[piece], cols[piece]].to(step.mean.device)
            advantage = batch.rewards[rows[piece]].to(step.mean.device)
            advantage = advantage - self._values(policy, batch, rows[piece], cols[piece]).detach()
            surrogate, outside = clamped_surrogate(log_ratio, advantage, config.clip_range)
            value = config.weight * surrogate.sum() / len(rows)
            metrics = {"loss": value.detach(), **ratio_metrics(log_ratio, outside, len(rows))}
            if step.pretrained_mean is not None:
                away = kl(step.mean, step.pretrained_mean, step.std)
                metrics["kl/pretrained"] = away.detach().sum() / len(rows)
                if config.divergence == "prediction":
                    weight = policy.transitions.output_weight[batch.steps[cols[piece]]].to(step.mean.device)
                    away = mean_square(step.mean - step.pretrained_mean) / weight**2
                value = value + config.kl_weight * away.sum() / len(rows)
            return value, metrics

        metrics = backward_each(len(rows), loss, micro_batch=micro_batch, ranks=ranks)
        if self.modules and part.number == 0:
            metrics |= self._fit(policy, batch, micro_batch, ranks)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"buffer": [batch.state_dict() for batch in self._kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept.clear()
        self._kept.extend(Batch.of_state_dict(kept) for kept in state["buffer"])

    def _fit(self, policy: Policy, batch: Batch, micro_batch: int, ranks: Ranks) -> dict[str, float]:
        steps = len(batch.steps)
        items = len(batch.prompts) * steps

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            values = self._values(policy, batch, piece // steps, piece % steps)
            error = (values - batch.rewards[piece // steps].to(values.device)).square().sum() / items
            return error, {"loss/value": error.detach()}

        return backward_each(items, loss, micro_batch=micro_batch, ranks=ranks)

    def _values(self, policy: Policy, batch: Batch, rows: Tensor, cols: Tensor) -> Tensor:
        x = batch.latents[rows, cols].to(policy.device)
        if "value" not in self.modules:
            return x.new_zeros(len(rows))
        value = self.modules["value"]
        assert isinstance(value, Value)
        return value(x, batch.steps[cols], policy.encode([batch.prompts[row] for row in rows.tolist()]))


def clamped_surrogate(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """-A rho' of the head of this file, elementwise, and where it has no gradient (0 or 1)."""
    ratio = log_ratio.exp()
    outside = ((ratio - 1).abs() > clip_range).detach()
    return -advantage * ratio.clamp(1 - clip_range, 1 + clip_range), outside.float()
