"""Preferences as plain functions: pairs and rankings from rewards, their losses, and the proximal clip.

Symbols, as in `docs/methods.md`: g = log pi_theta - log pi_ref of a stored transition, h = g_winner - g_loser the
margin, beta the inverse temperature, a = log pi_old - log pi_ref the anchor of the clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PairRule = Literal["consecutive", "best_worst", "all_pairs"]
LossKind = Literal["bt", "hinge", "ipo", "soft"]
Clip = Literal["pessimistic", "hard", "one_sided", "none"]


@dataclass(frozen=True)
class Pairs:
    """n preferences between samples of the same group."""

    winner: Tensor  # (n,) int64
    loser: Tensor  # (n,) int64
    gap: Tensor  # (n,) float32, reward difference; 0 marks a tie that was kept

    def __len__(self) -> int:
        return len(self.winner)


def make_pairs(
    rewards: Tensor, groups: Tensor, rule: PairRule, *, min_gap: float = 0.0, keep_ties: bool = False
) -> Pairs:
    """Pair the samples of each group; those whose reward is NaN take no part.

    Args:
        rewards: `(B,)`.
        groups: `(B,)` int64; only samples of one group are compared.
        rule: Neighbours in order of sampling, the best with the worst, or everyone with everyone.
        min_gap: Rewards that differ by no more than this are tied.
        keep_ties: Keep tied pairs, with gap 0 (they count in the mean and carry no gradient, as in D3PO), rather than
            drop them.
    """
    rows: list[tuple[int, int, float]] = []
    for group in groups.unique(sorted=True):
        members = torch.nonzero((groups == group) & rewards.isfinite()).flatten()
        for i, j in _candidates(rewards, members.tolist(), rule):
            gap = float(rewards[i] - rewards[j])
            if abs(gap) > min_gap:
                rows.append((i, j, gap) if gap > 0 else (j, i, -gap))
            elif keep_ties:
                rows.append((i, j, 0.0))
    winner, loser, gaps = zip(*rows, strict=True) if rows else ((), (), ())
    return Pairs(
        torch.tensor(winner, dtype=torch.int64), torch.tensor(loser, dtype=torch.int64), torch.tensor(gaps).float()
    )


def _candidates(rewards: Tensor, members: list[int], rule: PairRule) -> list[tuple[int, int]]:
    if len(members) < 2:
        return []
    if rule == "consecutive":
        return list(zip(members[::2], members[1::2], strict=False))
    if rule == "best_worst":
        scores = rewards[members]
        # Of several worst the last, so that a group of equals is not a sample paired with itself.
        return [(members[int(scores.argmax())], members[len(scores) - 1 - int(scores.flip(0).argmin())])]
    return list(combinations(members, 2))


def preference_loss(margin: Tensor, beta: float, kind: LossKind = "bt", label: Tensor | None = None) -> Tensor:
    """Loss of a margin h = g_winner - g_loser, elementwise.

    bt     softplus(-beta h), Bradley-Terry (Rafailov et al. 2023, eq. 7)
    soft   the same for a label y in [0, 1]: y softplus(-beta h) + (1 - y) softplus(beta h)
    hinge  max(0, 1 - beta h) (SLiC; RSO, Liu et al. 2023)
    ipo    (h - 1 / (2 beta))^2 (Azar et al. 2023, eq. 17)

    Args:
        margin: Any shape.
        beta: Scale of the margin; hinge and IPO saturate at h = 1 / beta and 1 / (2 beta).
        kind: Which loss.
        label: Probability that the winner is better, for `soft`; broadcasts against `margin`.
    """
    if kind == "bt":
        return F.softplus(-beta * margin)
    if kind == "hinge":
        return F.relu(1 - beta * margin)
    if kind == "ipo":
        return (margin - 1 / (2 * beta)) ** 2
    if label is None:
        raise ValueError("The soft-label loss needs a label.")
    return label * F.softplus(-beta * margin) + (1 - label) * F.softplus(beta * margin)


def plackett_luce(scores: Tensor, rewards: Tensor, min_gap: float = 0.0) -> Tensor:
    """Plackett-Luce negative log-likelihood of the ranking that `rewards` gives, over the first dimension.

    Tied items follow Breslow: each is compared with everyone that is not better than it, here by more than `min_gap`.
    So a tie is between two items and is not handed on: of neighbours that are all close, the first still beats the
    last. Divided by M - 1, so that the gradient's scale does not grow with the group; M = 2 is Bradley-Terry.

    Args:
        scores: `(M, ...)`, beta g of each item.
        rewards: `(M,)`, finite.
        min_gap: Items that differ by no more than this are tied.

    Returns:
        Losses of the trailing shape.
    """
    order = rewards.argsort(descending=True, stable=True)
    ranked, sorted_rewards = scores[order], rewards[order]
    # remaining[j] = logsumexp of the items from rank j on
    remaining = ranked.flip(0).logcumsumexp(0).flip(0)
    # The rank from which on nobody is better than an item: how many are.
    first = (sorted_rewards[None] - sorted_rewards[:, None] > min_gap).sum(dim=1)
    return (remaining[first] - ranked).sum(dim=0) / (len(order) - 1)


def clip_ratios(log_ratio: Tensor, anchor: Tensor, clip_range: float, clip: Clip, winner: bool) -> Tensor:
    """Clip log-ratios g the way the reading asks, in log space (nothing is exponentiated, so nothing overflows).

    hard         clamp(g, ln(1 - eps), ln(1 + eps)), as D3PO's and SPO's code does
    pessimistic  a + clamp(g - a, ...): the band moves with the policy that sampled
    one_sided    winners only from above, losers only from below

    Args:
        log_ratio: g, any shape.
        anchor: a, same shape.
        clip_range: eps, in (0, 1).
        clip: Which reading.
        winner: Whether these are the preferred samples (for `one_sided`).
    """
    low, high = math.log1p(-clip_range), math.log1p(clip_range)
    if clip == "hard":
        return log_ratio.clamp(low, high)
    if clip == "pessimistic":
        return anchor + (log_ratio - anchor).clamp(low, high)
    if clip == "one_sided":
        return log_ratio.clamp(max=high) if winner else log_ratio.clamp(min=low)
    return log_ratio


def proximal(loss: Callable[..., Tensor], raw: tuple[Tensor, ...], clipped: tuple[Tensor, ...], clip: Clip) -> Tensor:
    """The loss under a clip: of the clipped ratios, and for `pessimistic` the larger of clipped and unclipped (PPO).

    The larger one keeps the gradient that brings a transition back from the wrong side and drops only the incentive to
    go further beyond the band on the right one.
    """
    if clip == "none":
        return loss(*raw)
    if clip == "pessimistic":
        return torch.maximum(loss(*raw), loss(*clipped))
    return loss(*clipped)


def pair_metrics(winner: Tensor, loser: Tensor, clipped_winner: Tensor, clipped_loser: Tensor) -> dict[str, float]:
    """What is logged of n pairs at k steps: their margins before the clip, and how many log-ratios the clip changed.

    Args:
        winner, loser: g of both sides, `(n, k)`.
        clipped_winner, clipped_loser: The same under the clip.
    """
    margin = (winner - loser).detach()
    return {
        "pairs": float(len(winner)),
        "margin/mean": float(margin.mean()),
        "margin/std": float(margin.std(correction=0)),
        "margin/accuracy": float((margin > 0).float().mean() + 0.5 * (margin == 0).float().mean()),
        "clip/winner": _changed(winner, clipped_winner),
        "clip/loser": _changed(loser, clipped_loser),
    }


def _changed(ratios: Tensor, clipped: Tensor) -> float:
    # The tolerance is the rounding of a + (g - a).
    return float(((ratios - clipped).detach().abs() > 1e-6).float().mean())
