"""Adjoint Matching: samples the pretrained model's images tilted by the reward, p#(x) exp(beta r(x)), by regression.

The lean adjoint G carries the reward's gradient at the image back through the *pretrained* chain, along the states that
the policy drew; the policy's control, its difference from the pretrained model in units of the score, is matched to it:

    G_0(x_0)   = beta d r(decode(x_0)) / d x_0,        G_t = (d mu_#(x_t) / d x_t)^T G_next
    u_theta(x_t) = (mu_theta - mu_#) / std_t^2 = kappa_t (o_theta - o_#)
    L = mean( std_t^2 (u_theta(x_t) - G_next)^2 )      over dimensions, transitions and samples

At the optimum u is the expectation of G_next, the adjoint of the state that the step *leads to*. That is exact for a
chain in steps; the released code pairs u with G_t, which is so in the limit of many steps alone. No second network is
trained and nothing is bootstrapped, at the price of a way back through the whole chain.

The start x_T is not learned, so the chain must not remember it: DDPM's noise, or Flow-SDE's with eta = sqrt(2).

Source: Domingo-Enrich et al., "Adjoint Matching" (ICLR 2025, arXiv 2409.08861), algorithm 2, and its released code for
Stable Diffusion. There squares are summed over dimensions, which AdamW does not see, guidance is used in sampling alone
and the transitions of the largest errors are left out; here guidance is part of policy and pretrained model, and all
transitions count.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions, over
from learner.batch import Batch
from learner.decoupled import backward_each
from learner.fitting import in_pieces
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel, reward_gradient
from learner.subsample import Strata, split_samples


class AdjointMatchingConfig(BaseModel, frozen=True, extra="forbid"):
    """Adjoint Matching."""

    asks: ClassVar[Asks] = Asks(reward="gradients", noise="memoryless")

    name: Literal["adjoint_matching"] = "adjoint_matching"
    beta: float = Field(1.0, ge=0, description="The target is p# exp(beta r); r is not normalised.")
    step_fraction: float = Field(
        0.08,
        gt=0,
        le=1,
        description="Share of a chain's transitions with an adapter whose control is matched, one of each stratum; the "
        "released code takes 4 of 50. The adjoint goes through all of them.",
    )
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")

    def build(self) -> AdjointMatching:
        """The objective."""
        return AdjointMatching(self)


class AdjointMatching(Objective):
    """Adjoint Matching, see the head of this file."""

    config: AdjointMatchingConfig

    def __init__(self, config: AdjointMatchingConfig) -> None:
        self.config = config

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        assert reward is not None
        self._reward = reward
        self._strata = Strata(len(self.trained_steps(policy.transitions)), self.config.step_fraction)

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(chain.stochastic_steps)

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return chain.trainable_steps

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        for samples in split_samples(len(rows), self.config.updates, generator):
            yield Part(rows[samples], self._strata.draw(len(samples), generator))

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        transitions, drawn = policy.transitions, part.columns.shape[1]
        rows, cols = part.samples.repeat_interleave(drawn), part.columns.flatten()
        weights = self._strata.weights
        weights = (weights / weights.sum()).repeat(len(part.samples)) / len(part.samples)
        goals = self._goals(policy, batch, part, micro_batch, ranks).flatten(0, 1)

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            x, step = batch.latents[rows[piece], cols[piece]].to(policy.device), batch.steps[cols[piece]]
            prompts = [batch.prompts[row] for row in rows[piece].tolist()]
            weight, goal = weights[piece].to(policy.device), goals[piece].to(policy.device)
            judged = goal.flatten(1).isfinite().all(dim=1)
            scale = transitions.score_weight(step, x) * transitions.std_at(step, x)
            difference = scale * (policy.predict(x, step, policy.encode(prompts)) - goal)
            squares = torch.where(over(judged, goal), difference, 0.0).square().flatten(1).mean(dim=1)
            value = (weight * squares).sum()
            return value, {"loss": value.detach(), "unjudged": (weight * ~judged).sum()}

        return backward_each(len(rows), loss, micro_batch=micro_batch, ranks=ranks)

    def _goals(self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks) -> Tensor:
        """`matched_predictions` of a part's transitions `(b, k, ...)`, on the host; each rank does its samples."""
        found = torch.zeros(*part.columns.shape, *policy.latent_shape)

        def enter(piece: Tensor) -> None:
            goals = matched_predictions(policy, self._reward, batch, part.samples[piece], self.config.beta)
            found[piece] = goals[torch.arange(len(piece))[:, None], part.columns[piece]]

        in_pieces(ranks.pieces(len(part.samples), micro_batch), enter, ranks)
        for some in torch.arange(len(found)).split(micro_batch):
            found[some] = ranks.sum_(found[some].to(policy.device)).to(found.device)
        return found


def matched_predictions(policy: Policy, reward: RewardModel, batch: Batch, rows: Tensor, beta: float) -> Tensor:
    """What the network has to say at every state of some chains, so that its control is the lean adjoint.

    Args:
        policy: Whose pretrained model the adjoint goes through.
        reward: Judges the images.
        batch: Whole chains: every step of them is stored.
        rows: `(n,)` int64, samples of the batch.
        beta: Of the reward.

    Returns:
        o_# + G_next / kappa, `(n, T, ...)` float32 on the host, detached; NaN where the reward could not judge.
    """
    prompts = [batch.prompts[row] for row in rows.tolist()]
    conditioning, found = policy.encode(prompts), []
    image = batch.next_latents[rows, -1].to(policy.device).requires_grad_()
    gradient, judged = reward_gradient(reward, policy.decode(image), image, prompts)
    adjoint = beta * gradient
    with policy.using(None):
        for column in reversed(range(len(batch.steps))):
            x = batch.latents[rows, column].to(policy.device).requires_grad_(column > 0)
            step = batch.steps[column].expand(len(rows))
            with torch.set_grad_enabled(column > 0):  # of what comes before the first step nobody asks
                prediction = policy.predict(x, step, conditioning)
                mean = policy.transitions.mean(x, prediction, step)
            goal = prediction.detach() + adjoint / policy.transitions.score_weight(step, x)
            found.append(torch.where(over(judged, goal), goal, torch.nan).cpu())
            if column:
                (adjoint,) = torch.autograd.grad(mean, x, adjoint)
    return torch.stack(found[::-1], dim=1)
