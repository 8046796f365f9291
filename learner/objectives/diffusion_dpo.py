"""Diffusion-DPO: direct preference optimisation of finished pictures, noised to states of the forward process.

Of two pictures of a prompt, w preferred to l, both noised to the same state with the same noise, let m be the mean
square error of the network's output under the policy and m^ref under the reference. A picture's implicit reward is
beta r, and

    r = (m^ref - m) / 2           h = r_w - r_l           L = mean ell(beta h)

with ell = -log sigmoid (Bradley-Terry), hinge or IPO (`learner.preferences.preference_loss`). Derived from DPO over
whole chains by noising pictures forward instead of sampling chains backward, and by Jensen's inequality. Nobody has to
have drawn the pictures: they may be a data set's with the labels of people, or of any reward (AI feedback), or the
samplers' own. With `reference=round` the reference moves, as the online form has it.

Source: Wallace et al., "Diffusion Model Alignment Using Direct Preference Optimization" (CVPR 2024, arXiv 2311.12908);
numbers are the released code's, whose beta 5000 goes with the half in r; diffusers' script for Stable Diffusion 1.5
leaves it out and has 2500, the same loss. The online form is that of Flow-GRPO's release.
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
from learner.comparisons import Comparisons, margin_sums, with_deviation
from learner.decoupled import backward_each
from learner.forward_process import States, Timesteps, output_error
from learner.likelihood import REFERENCE_ADAPTER
from learner.objectives.objective import Asks, Objective, Part, Plan, refuse_unused
from learner.preferences import PairRule, make_pairs, preference_loss
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import split_groups


class DiffusionDPOConfig(BaseModel, frozen=True, extra="forbid"):
    """Direct preference optimisation of diffusion models."""

    name: Literal["diffusion_dpo"] = "diffusion_dpo"
    loss: Literal["bt", "hinge", "ipo"] = Field("bt", description="Preference loss; Bradley-Terry as published.")
    beta: float = Field(5000.0, gt=0, description="Scale of the margin h, in which errors count half.")
    pairs: PairRule = Field("best_worst", description="Who is compared with whom among the pictures of a prompt.")
    min_gap: float = Field(0.0, ge=0, description="Rewards that differ by no more than this are tied.")
    ties: Literal["drop", "soft"] = Field(
        "drop",
        description="drop: tied pairs are left out, as published. soft: each of the two is better with probability "
        "1/2, which draws their implicit rewards together.",
    )
    label_temperature: float | None = Field(
        None,
        gt=0,
        description="The winner is better with probability sigmoid(reward difference / this), as scores say it; null: "
        "with certainty, as published.",
    )
    reference: Literal["pretrained", "round"] = Field(
        "pretrained", description="Reference: the pretrained model, or a snapshot taken at the start of each round."
    )
    round_length: int = Field(1, ge=1, description="Iterations of a round, for reference=round.")
    timesteps: Timesteps = Field(
        "training",
        description="States that pictures are noised to: of all timesteps that the model was trained at, as "
        "published, or of the chain that samplers go.",
    )
    states: int = Field(1, ge=1, description="States to which each pair is noised in an update, or all there are.")
    prompt_dropout: float = Field(
        0.2, ge=0, lt=1, description="Share of the pairs that are trained without their prompt, for guidance."
    )
    prompts_per_update: int | None = Field(None, ge=1, description="Prompts of one optimizer step; null is all.")

    @model_validator(mode="after")
    def _check(self) -> DiffusionDPOConfig:
        if self.loss != "bt":
            refuse_unused(self, "loss=bt", "ties", "label_temperature")
        if self.reference != "round":
            refuse_unused(self, "reference=round", "round_length")
        return self

    @property
    def asks(self) -> Asks:
        """Pairs of a prompt, of which ties may count."""
        return Asks(groups=True, strict=self.ties == "drop", noise="nowhere")

    def build(self) -> DiffusionDPO:
        """The objective."""
        return DiffusionDPO(self)


class DiffusionDPO(Objective):
    """Direct preference optimisation of diffusion models, see the head of this file."""

    config: DiffusionDPOConfig

    def __init__(self, config: DiffusionDPOConfig) -> None:
        self.config = config

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan((), clean=True)

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return tuple(range(chain.adapted_steps))

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        self._states = States.of(policy, self.config.timesteps)

    def begin(self, policy: Policy, batch: Batch, version: int) -> Batch:
        if self.config.reference == "round" and version % self.config.round_length == 0:
            policy.snapshot(REFERENCE_ADAPTER)
        return batch

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        shares = split_groups(batch.groups, 1, self.config.prompts_per_update, None, generator)
        for number, (samples, _) in enumerate(shares):
            yield Part(samples, self._states.draw_for(batch.groups[samples], self.config.states, generator), number)

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        config, chain, groups = self.config, self._states.chain, batch.groups[part.samples]
        rewards = batch.rewards[part.samples]
        pairs = make_pairs(rewards, groups, config.pairs, min_gap=config.min_gap, keep_ties=config.ties == "soft")
        if not len(pairs):  # everyone tied or dropped: nothing to learn
            return {"pairs": 0.0}
        compared = Comparisons.of(pairs, part.samples, part.columns, groups)
        label, strict = labels(pairs.gap, config.label_temperature)[compared.pair], (pairs.gap > 0)[compared.pair]
        reference = REFERENCE_ADAPTER if config.reference == "round" else None

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            state, winner, loser = compared.noised(piece, policy, batch, part.number, config.prompt_dropout)
            before, new = (
                output_error(chain, image, state.clean, state.step)
                for image in (state.image_of(reference, policy, False), state.image(policy, False))
            )
            implicit = (before - new) / 2
            margin = implicit[winner] - implicit[loser]
            losses = dpo_loss(margin, label[piece].to(margin.device), config)
            metrics = {
                "loss": losses.detach().sum() / len(compared),
                "error/winner": new.detach()[winner].sum() / len(compared),
                "error/loser": new.detach()[loser].sum() / len(compared),
            }
            if strict.any():
                metrics |= margin_sums(margin[strict[piece].to(margin.device)], int(strict.sum()))
            return losses.sum() / len(compared), metrics

        with policy.along(chain):
            metrics = backward_each(len(compared), loss, micro_batch=max(1, micro_batch // 2), ranks=ranks)
        return with_deviation(metrics) | {"pairs": float(len(pairs))}


def labels(gap: Tensor, temperature: float | None) -> Tensor:
    """How likely the winner is better, `(n,)`, of reward differences `(n,)`, of which 0 is a tie."""
    return torch.sigmoid(gap / temperature) if temperature else torch.where(gap > 0, 1.0, 0.5)


def dpo_loss(margin: Tensor, label: Tensor, config: DiffusionDPOConfig) -> Tensor:
    """ell(beta h) of the head of this file, of margins h and labels `(n,)`."""
    return preference_loss(margin, config.beta, "soft" if config.loss == "bt" else config.loss, label)
