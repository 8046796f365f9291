"""MaPO: margin-aware preference optimisation, which knows no reference model.

Of two pictures of a prompt, w preferred to l, both noised to the same state with the same noise, let m be the mean
square error of the network's output. With

    f(m) = snr m / (e^(snr m) - 1)           L = mean m_w  -  margin_weight mean log sigmoid( scale (f(m_w) - f(m_l)) )

the first term is fine-tuning on the preferred picture, and the second keeps its error below the other's. As errors are
small, f is 1 - snr m / 2, and the margin is snr scale / 2 times their difference, 250 with the numbers below.

Source: Hong, Paul et al., "Margin-aware Preference Optimization for Aligning Diffusion Models without Reference"
(arXiv 2406.06424); numbers are the released code's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, Field
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.comparisons import Comparisons, margin_sums, with_deviation
from learner.decoupled import backward_each
from learner.forward_process import States, Timesteps, output_error
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.preferences import PairRule, make_pairs
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel
from learner.subsample import split_groups


class MaPOConfig(BaseModel, frozen=True, extra="forbid"):
    """Margin-aware preference optimisation."""

    asks: ClassVar[Asks] = Asks(groups=True, strict=True, noise="nowhere")

    name: Literal["mapo"] = "mapo"
    margin_weight: float = Field(0.1, ge=0, description="Weight of the margin's term, the code's beta_mapo.")
    snr: float = Field(0.5, gt=0, description="Factor of errors in f, for which the code takes one number throughout.")
    scale: float = Field(1000.0, gt=0, description="Factor of the margin; the code's is the number of timesteps.")
    pairs: PairRule = Field("best_worst", description="Who is compared with whom among the pictures of a prompt.")
    min_gap: float = Field(0.0, ge=0, description="Rewards that differ by no more than this are tied, and left out.")
    timesteps: Timesteps = Field(
        "training",
        description="States that pictures are noised to: of all timesteps that the model was trained at, as "
        "published, or of the chain that samplers go.",
    )
    states: int = Field(1, ge=1, description="States to which each pair is noised in an update, or all there are.")
    prompt_dropout: float = Field(
        0.0, ge=0, lt=1, description="Share of the pairs that are trained without their prompt; none in the code."
    )
    prompts_per_update: int | None = Field(None, ge=1, description="Prompts of one optimizer step; null is all.")

    def build(self) -> MaPO:
        """The objective."""
        return MaPO(self)


class MaPO(Objective):
    """Margin-aware preference optimisation, see the head of this file."""

    config: MaPOConfig

    def __init__(self, config: MaPOConfig) -> None:
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
            yield Part(samples, self._states.draw_for(batch.groups[samples], self.config.states, generator), number)

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        config, chain, groups = self.config, self._states.chain, batch.groups[part.samples]
        pairs = make_pairs(batch.rewards[part.samples], groups, config.pairs, min_gap=config.min_gap)
        if not len(pairs):  # everyone tied or dropped: nothing to learn
            return {"pairs": 0.0}
        compared = Comparisons.of(pairs, part.samples, part.columns, groups)

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            state, winner, loser = compared.noised(piece, policy, batch, part.number, config.prompt_dropout)
            errors = output_error(chain, state.image(policy, False), state.clean, state.step)
            losses, margin = mapo_loss(errors[winner], errors[loser], config)
            metrics = {
                "loss": losses.detach().sum() / len(compared),
                "error/winner": errors.detach()[winner].sum() / len(compared),
                "error/loser": errors.detach()[loser].sum() / len(compared),
            }
            return losses.sum() / len(compared), metrics | margin_sums(margin, len(compared))

        with policy.along(chain):
            metrics = backward_each(len(compared), loss, micro_batch=max(1, micro_batch // 2), ranks=ranks)
        return with_deviation(metrics) | {"pairs": float(len(pairs))}


def mapo_loss(winner: Tensor, loser: Tensor, config: MaPOConfig) -> tuple[Tensor, Tensor]:
    """The loss of the head of this file and its margin f(m_w) - f(m_l), of errors m `(n,)` above 0."""
    better, worse = (config.snr * errors / torch.expm1(config.snr * errors) for errors in (winner, loser))
    margin = better - worse
    return winner - config.margin_weight * F.logsigmoid(config.scale * margin), margin
