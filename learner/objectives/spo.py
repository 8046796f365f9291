"""SPO: step-by-step preference optimisation. Candidates for the next state are compared where they are drawn.

    L = -log sigmoid( beta (g_w - g_l) ),    g = clamp( log pi_theta(x_next | x_t) - log pi_ref(x_next | x_t) )

Of each state x_t that is trained M candidates for the next one are drawn, from the same mean. A step-aware preference
model (`rewards.step_aware`) scores the images that the policy predicts of them, told the timestep of the next state:
the best is the winner w and the worst the loser l, if the softmax of their two scores differs by more than `threshold`.
The chain goes on with a candidate drawn evenly, whatever the scores: here with the first, which is the same in law,
because candidates are drawn alike and only their scores tell them apart. So the images are those of a run without
candidates. The clamp is D3PO's, around the pretrained model.

Source: Liang et al., "Aesthetic Post-Training Diffusion Models from Generic Preferences with Step-by-step Preference
Optimization" (CVPR 2025, arXiv 2406.04314); defaults are those of its code for Stable Diffusion 1.5. Its SDXL recipe
takes several transitions before it judges, which is not done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import atanh
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions, log_prob
from learner.batch import Batch
from learner.comparisons import margin_sums, with_deviation
from learner.decoupled import backward_each
from learner.likelihood import transition_of
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.preferences import clip_ratios, preference_loss
from learner.ranks import ALONE, Ranks
from learner.subsample import share_of


class SPOConfig(BaseModel, frozen=True, extra="forbid"):
    """Step-by-step preference optimisation."""

    asks: ClassVar[Asks] = Asks()

    name: Literal["spo"] = "spo"
    beta: float = Field(
        10.0, gt=0, description="Scale of the margin; log-probabilities are means over dimensions, as in its code."
    )
    clip_range: float = Field(0.1, gt=0, lt=1, description="Ratios are clamped to within this distance of 1.")
    candidates: int = Field(4, ge=2, description="Next states that are drawn at each step that is trained.")
    threshold: float = Field(
        0.3,
        ge=0,
        lt=1,
        description="The best and the worst candidate are a pair if the softmax of their scores differs by more.",
    )
    skip_fraction: float = Field(
        0.2, ge=0, lt=1, description="Share of the steps, from the noisy end, that is drawn as ever and not trained."
    )
    pairs_per_update: int | None = Field(40, ge=1, description="Pairs of one optimizer step; null is all.")

    def build(self) -> SPO:
        """The objective."""
        return SPO(self)


class StepPairs(NamedTuple):
    """The best and the worst candidate of n transitions."""

    winner: Tensor  # (n,) int64
    loser: Tensor  # (n,) int64
    gap: Tensor  # (n,) float32, of their scores, 0 where there are no two with a score


def step_pairs(judged: Tensor) -> StepPairs:
    """The pairs of transitions whose candidates have scores `(n, M)`, NaN where one could not be judged."""
    there = judged.isfinite()
    winner = torch.where(there, judged, -torch.inf).argmax(dim=1)
    loser = torch.where(there, judged, torch.inf).argmin(dim=1)
    best, worst = (judged.gather(1, index[:, None])[:, 0] for index in (winner, loser))
    return StepPairs(winner, loser, torch.where(there.any(dim=1), best - worst, 0.0))


class SPO(Objective):
    """Step-by-step preference optimisation, see the head of this file."""

    config: SPOConfig

    def __init__(self, config: SPOConfig) -> None:
        self.config = config
        self._metrics: dict[str, float] = {}

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        steps = chain.trainable_steps
        trained = share_of(len(steps), 1 - self.config.skip_fraction)
        return Plan(steps[len(steps) - trained :], candidates=self.config.candidates)

    def begin(self, policy: Policy, batch: Batch, version: int) -> Batch:
        assert batch.judged is not None
        gaps = step_pairs(batch.judged[batch.rewards.isfinite()].flatten(0, 1)).gap
        kept = (gaps > self._least).float()
        self._metrics = {"pairs/kept": float(kept.mean()), "pairs/gap": float(gaps.mean())} if len(gaps) else {}
        return batch

    def metrics(self) -> dict[str, float]:
        return self._metrics

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows, columns = self._pairs(batch).T
        order = torch.randperm(len(rows), generator=generator)
        for some in order.split(self.config.pairs_per_update or max(1, len(order))):
            if len(some):
                yield Part(rows[some], columns[some, None])

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        assert batch.candidates is not None
        assert batch.judged is not None
        count, candidates, judged = len(part.samples), batch.candidates, batch.judged

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor | float]]:
            rows, columns = part.samples[piece], part.columns[piece, 0]
            there = transition_of(policy, batch, rows, columns, pretrained=True)
            winner, loser, _ = step_pairs(judged[rows, columns])

            def ratio(chosen: Tensor) -> Tensor:
                x_next = candidates[rows, columns, chosen].to(policy.device)
                assert there.pretrained_mean is not None
                reference = log_prob(x_next, there.pretrained_mean, there.std)
                return log_prob(x_next, there.mean, there.std) - reference

            better, worse = ratio(winner), ratio(loser)
            losses, changed = spo_loss(self.config, better, worse)
            sums = {name: values.sum() / count for name, values in changed.items()}
            found = {"loss": losses.detach().sum() / count, **sums, **margin_sums(better - worse, count)}
            return losses.sum() / count, {"pairs": float(len(piece)), **found}

        return with_deviation(backward_each(count, loss, micro_batch=micro_batch, ranks=ranks))

    @property
    def _least(self) -> float:
        """The gap of scores s at which the difference of their softmax, tanh(gap / 2), is the threshold."""
        return 2 * atanh(self.config.threshold)

    def _pairs(self, batch: Batch) -> Tensor:
        """Samples and columns `(n, 2)` int64 of the transitions that have a pair: all, until they have been judged."""
        if batch.judged is None:
            return torch.cartesian_prod(torch.arange(len(batch.prompts)), torch.arange(len(batch.steps)))
        kept = step_pairs(batch.judged.flatten(0, 1)).gap.view(batch.judged.shape[:2]) > self._least
        return torch.nonzero(kept & batch.rewards.isfinite()[:, None])


def spo_loss(config: SPOConfig, winner: Tensor, loser: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the head of this file, elementwise, and where the clamp acts, both `(n,)`.

    Args:
        config: Its numbers.
        winner, loser: `(n,)` log-ratios to the pretrained model, nats per dimension, with gradient.
    """
    clipped = [clip_ratios(g, torch.zeros_like(g), config.clip_range, "hard", winner=True) for g in (winner, loser)]
    names = ("clip/winner", "clip/loser")
    changed = {
        n: ((g - c).detach().abs() > 1e-6).float() for n, g, c in zip(names, (winner, loser), clipped, strict=True)
    }
    return preference_loss(clipped[0] - clipped[1], config.beta), changed
