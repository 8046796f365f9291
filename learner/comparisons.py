"""Pairs of pictures that are compared at the same noised states and with the same noise.

A picture may be in several pairs. Comparisons stand in an order in which those of the same pictures at the same state
are neighbours, and a micro-batch of them gives each of its pictures to the network once.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from actors.policy import Policy
from learner.batch import Batch
from learner.forward_process import Noised, noised
from learner.preferences import Pairs


class Comparisons(NamedTuple):
    """n comparisons, each of a pair at a state, `(n,)` int64."""

    pair: Tensor  # which of the pairs
    winner: Tensor  # rows of the batch
    loser: Tensor
    step: Tensor  # the state, by the step that starts there

    @classmethod
    def of(cls, pairs: Pairs, samples: Tensor, steps: Tensor, groups: Tensor) -> Comparisons:
        """Every pair at each of its k states.

        Args:
            pairs: Of some samples of a batch.
            samples: `(b,)` int64, their rows.
            steps: `(b, k)` int64, their states, the same throughout a group.
            groups: `(b,)` int64.
        """
        states = steps.shape[1]
        pair, column = torch.cartesian_prod(torch.arange(len(pairs)), torch.arange(states)).T
        _, group = groups[pairs.winner].unique(return_inverse=True)
        order = (group[pair] * states + column).argsort(stable=True)
        pair, column = pair[order], column[order]
        winner, loser = pairs.winner[pair], pairs.loser[pair]
        return cls(pair, samples[winner], samples[loser], steps[winner, column])

    def __len__(self) -> int:
        return len(self.pair)

    def noised(
        self, some: Tensor, policy: Policy, batch: Batch, draw: int, dropout: float
    ) -> tuple[Noised, Tensor, Tensor]:
        """The pictures of some comparisons, noised.

        Args:
            some: `(m,)` int64, which.
            policy: See `learner.forward_process.noised`, as the others.
            batch: See there.
            draw: See there.
            dropout: See there; both of a pair have their prompt, or neither.

        Returns:
            The pictures, each once a state, and where among them are winners and losers, `(m,)` int64 each.
        """
        both = torch.stack([torch.cat([self.winner[some], self.loser[some]]), self.step[some].repeat(2)])
        (rows, steps), place = both.unique(dim=1, return_inverse=True)
        winner, loser = place.to(policy.device).chunk(2)
        return noised(policy, batch, rows, steps, draw, per_group=True, dropout=dropout), winner, loser


def margin_sums(margin: Tensor, count: int) -> dict[str, Tensor]:
    """A micro-batch's part of what is logged of `count` margins; its margins are `(m,)`, above 0 for the winner."""
    values = margin.detach().double()
    return {
        "margin/mean": values.sum() / count,
        "margin/std": values.square().sum() / count,  # until `with_deviation`
        "margin/accuracy": ((values > 0).double() + 0.5 * (values == 0)).sum() / count,
    }


def with_deviation(metrics: Mapping[str, float]) -> dict[str, float]:
    """The sums of `margin_sums` over all micro-batches, with the mean square made a standard deviation."""
    if "margin/std" not in metrics:
        return dict(metrics)
    return {**metrics, "margin/std": sqrt(max(0.0, metrics["margin/std"] - metrics["margin/mean"] ** 2))}
