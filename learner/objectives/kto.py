"""Diffusion-KTO: single pictures that are good or bad, without pairs, judged as prospect theory has people judge.

A picture is noised to a state; with m the mean square error of the network's output there, under the policy and the
pretrained model,

    g = m^ref - m           z = max(0, mean g), not differentiated           L = mean w (1 - sigmoid( +-beta (g - z) ))

with + for desirable pictures and - for undesirable ones, and weights w of either. z is where gain turns into loss, the
KL of policy to pretrained model as its mean over all pictures of the update estimates it. A sigmoid saturates on both
sides: pictures that are far better or worse than expected no longer count, whichever label they have.

Source: Li et al., "Aligning Diffusion Models by Optimizing Human Utility" (NeurIPS 2024, arXiv 2404.04465); numbers are
the released code's, whose z is of the few pictures that its GPUs see at a time.
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
from learner.coupled import backward_coupled
from learner.forward_process import States, Timesteps, noised, output_error
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import split_groups


class KTOConfig(BaseModel, frozen=True, extra="forbid"):
    """Kahneman-Tversky optimisation of diffusion models."""

    asks: ClassVar[Asks] = Asks(strict=True, noise="nowhere")

    name: Literal["kto"] = "kto"
    beta: float = Field(1000.0, gt=0, description="Scale of the gain g; 1000 is the code's.")
    threshold: float = Field(0.0, description="Pictures with a higher reward are desirable, with a lower undesirable.")
    min_gap: float = Field(
        1e-3, ge=0, description="Pictures whose reward is no further than this from the threshold are neither."
    )
    desirable_weight: float = Field(1.0, ge=0, description="w of desirable pictures.")
    undesirable_weight: float = Field(1.0, ge=0, description="w of undesirable pictures.")
    timesteps: Timesteps = Field(
        "training",
        description="States that pictures are noised to: of all timesteps that the model was trained at, as "
        "published, or of the chain that samplers go.",
    )
    states: int = Field(1, ge=1, description="States to which each picture is noised in an update, or all there are.")
    prompt_dropout: float = Field(
        0.2, ge=0, lt=1, description="Share of the pictures that are trained without their prompt, for guidance."
    )
    prompts_per_update: int | None = Field(None, ge=1, description="Prompts of one optimizer step; null is all.")

    def build(self) -> KTO:
        """The objective."""
        return KTO(self)


class KTO(Objective):
    """Kahneman-Tversky optimisation of diffusion models, see the head of this file."""

    config: KTOConfig

    def __init__(self, config: KTOConfig) -> None:
        self.config = config

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan((), clean=True)

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return tuple(range(chain.adapted_steps))

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        self._states = States.of(policy, self.config.timesteps)

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        shares = split_groups(batch.groups, 1, self.config.prompts_per_update, None, generator)
        for number, (samples, _) in enumerate(shares):
            yield Part(samples, self._states.draw(len(samples), self.config.states, generator), number)

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        config, chain = self.config, self._states.chain
        off = batch.rewards[part.samples] - config.threshold
        labelled = torch.nonzero(off.abs() > config.min_gap).flatten()
        if not len(labelled):  # nobody is good or bad: nothing to learn
            return {"samples/desirable": 0.0, "samples/undesirable": 0.0}
        desirable, states = off[labelled] > 0, part.columns.shape[1]
        rows, steps = part.samples[labelled].repeat_interleave(states), part.columns[labelled].flatten()

        def evaluate(piece: Tensor, again: bool) -> list[Tensor]:
            state = noised(policy, batch, rows[piece], steps[piece], part.number, dropout=config.prompt_dropout)
            seen = [state.image(policy, False)] + ([] if again else [state.image_of(None, policy, False)])
            return [output_error(chain, image, state.clean, state.step) for image in seen]

        def loss(table: Tensor) -> tuple[Tensor, dict[str, float]]:
            new, before = table
            good = desirable.repeat_interleave(states).to(table.device)
            return kto_loss(before.detach() - new, good, config)

        with policy.along(chain):
            metrics = backward_coupled(
                len(rows), 2, evaluate, loss, micro_batch=micro_batch, device=policy.device, ranks=ranks
            )
        numbers = {"samples/desirable": float(desirable.sum()), "samples/undesirable": float((~desirable).sum())}
        return metrics | numbers


def kto_loss(gain: Tensor, desirable: Tensor, config: KTOConfig) -> tuple[Tensor, dict[str, float]]:
    """The loss of the head of this file and its metrics.

    Args:
        gain: g, `(n,)` with gradient.
        desirable: `(n,)` bool; the others are undesirable.
        config: Its numbers.
    """
    point = gain.detach().mean().clamp(min=0)
    sign = torch.where(desirable, 1.0, -1.0)
    weight = torch.where(desirable, config.desirable_weight, config.undesirable_weight)
    value = (weight * (1 - torch.sigmoid(sign * config.beta * (gain - point)))).mean()
    seen = gain.detach()
    metrics = {
        "loss": float(value.detach()),
        "gain/point": float(point),
        "gain/accuracy": float((sign * (seen - point) > 0).float().mean() + 0.5 * (seen == point).float().mean()),
    }
    for name, of in (("desirable", desirable), ("undesirable", ~desirable)):
        if of.any():
            metrics[f"gain/{name}"] = float(seen[of].mean())
    return value, metrics
