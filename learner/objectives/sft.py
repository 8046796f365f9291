"""Supervised fine-tuning: denoising of the pictures that were preferred, and of no others.

    L = mean m(x0_theta, x0)

over the chosen pictures, each noised to states of the forward process, with m the mean square error of the network's
output. Chosen is the best picture of each prompt, the baseline of Diffusion-DPO, or whatever scores above a threshold.
Weights by reward are `learner/objectives/rwr.py`'s.

Source: the baseline of Wallace et al. (arXiv 2311.12908) and its released code.
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
from learner.forward_process import States, Timesteps, noised, output_error
from learner.objectives.objective import Asks, Objective, Part, Plan, refuse_unused
from learner.preferences import make_pairs
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import split_groups


class SFTConfig(BaseModel, frozen=True, extra="forbid"):
    """Supervised fine-tuning on chosen pictures."""

    name: Literal["sft"] = "sft"
    pictures: Literal["preferred", "desirable"] = Field(
        "preferred",
        description="Which are trained on: the best of each prompt, or those whose reward is above the threshold.",
    )
    min_gap: float = Field(
        0.0, ge=0, description="preferred: by how much the best is better than the worst, or its prompt is left out."
    )
    threshold: float = Field(0.0, description="desirable: the reward that a picture must exceed.")
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

    @model_validator(mode="after")
    def _check(self) -> SFTConfig:
        other = {"preferred": ("pictures=desirable", "threshold"), "desirable": ("pictures=preferred", "min_gap")}
        refuse_unused(self, *other[self.pictures])
        return self

    @property
    def asks(self) -> Asks:
        """The best of a prompt needs a second picture."""
        preferred = self.pictures == "preferred"
        return Asks(groups=preferred, strict=preferred, noise="nowhere")

    def build(self) -> SFT:
        """The objective."""
        return SFT(self)


class SFT(Objective):
    """Supervised fine-tuning, see the head of this file."""

    config: SFTConfig

    def __init__(self, config: SFTConfig) -> None:
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
        chosen = chosen_pictures(batch.rewards[part.samples], batch.groups[part.samples], config)
        if not len(chosen):  # nobody is better than the others: nothing to learn
            return {"samples/chosen": 0.0}
        rows, steps = part.samples[chosen].repeat_interleave(part.columns.shape[1]), part.columns[chosen].flatten()

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            state = noised(policy, batch, rows[piece], steps[piece], part.number, dropout=config.prompt_dropout)
            value = output_error(chain, state.image(policy, False), state.clean, state.step).sum() / len(rows)
            return value, {"loss": value.detach()}

        with policy.along(chain):
            metrics = backward_each(len(rows), loss, micro_batch=micro_batch, ranks=ranks)
        return metrics | {"samples/chosen": float(len(chosen))}


def chosen_pictures(rewards: Tensor, groups: Tensor, config: SFTConfig) -> Tensor:
    """Which pictures are trained on, int64.

    Args:
        rewards: `(b,)`, NaN where a sample was dropped.
        groups: `(b,)` int64.
        config: Says how they are chosen.
    """
    if config.pictures == "preferred":
        return make_pairs(rewards, groups, "best_worst", min_gap=config.min_gap).winner
    return torch.nonzero(rewards > config.threshold).flatten()
