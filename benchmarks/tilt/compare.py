"""A policy's pictures beside the exact tilt of the same reward: what each point of a method's path comes to."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from benchmarks.tilt.judging import Judged
from benchmarks.tilt.tilt import (
    Spread,
    beta_at,
    deviation,
    divergence,
    effective_sizes,
    energy,
    expected,
    frechet,
    tilted,
)

_RESAMPLED = 8


@dataclass(frozen=True)
class Point:
    """What pictures of one policy come to, in the mean over prompts."""

    reward: float
    gold: float
    shares: tuple[float, ...]  # of the backgrounds, the last of any other
    diversity: float  # mean distance of two pictures of a prompt, in the reading network's features
    diversity_pixels: float  # the same in coarse pixels


@dataclass(frozen=True)
class Tilt(Point):
    """The same of the tilt at one beta."""

    beta: float
    effective: float  # mean effective sample size of a prompt
    least: float  # the smallest of a prompt


@dataclass(frozen=True)
class Compared(Point):
    """The same of a policy, and what it is beside the tilt that has the same reward, NaN where no tilt has."""

    distance: float  # energy distance from the pretrained model, in the reading network's features
    beta: float  # of the tilt with the same reward
    effective: float  # its mean effective sample size of a prompt
    tilt_gold: float
    tilt_diversity: float
    tilt_diversity_pixels: float
    grounds_kl: float  # KL of the shares of backgrounds to the tilt's, nats
    frechet: float  # Frechet distance to the tilt, in the reading network's features
    frechet_floor: float  # the same of as many pictures drawn from the tilt itself, told by half of the base each


NUMBERS = [field.name for field in fields(Compared) if field.name != "shares"]


class Exact:
    """The tilt's whole front.

    Args:
        base: Pictures of the pretrained model.
    """

    def __init__(self, base: Judged) -> None:
        self.base, self.deviation = base, deviation(base.reward, base.groups)
        self._reading, self._pixels = (Spread(of, base.groups) for of in (base.reading, base.pixels))

    def at(self, beta: float) -> Tilt:
        """The tilt at one beta."""
        base, weights = self.base, tilted(self.base.reward, self.base.groups, beta)
        sizes = effective_sizes(weights, base.groups)
        reward, gold = (float(expected(of, weights, base.groups)) for of in (base.reward, base.gold))
        shares = tuple(expected(base.grounds, weights, base.groups).tolist())
        diversity, pixels = (of.diversity(weights) for of in (self._reading, self._pixels))
        return Tilt(reward, gold, shares, diversity, pixels, beta, float(sizes.mean()), float(sizes.min()))

    def beside(self, found: Judged) -> Compared:
        """A policy's pictures beside the tilt of the same reward.

        Args:
            found: Pictures of the same prompts, equally many of each, with noise of their own.
        """
        base, even = self.base, tilted(found.reward, found.groups, 0.0)
        reward, gold = (
            float(expected(found.reward, even, found.groups)),
            float(expected(found.gold, even, found.groups)),
        )
        shares = expected(found.grounds, even, found.groups)
        own = (
            reward, gold, tuple(shares.tolist()), Spread(found.reading, found.groups).diversity(even),
            Spread(found.pixels, found.groups).diversity(even),
            energy(found.reading, found.groups, base.reading, base.groups),
        )  # fmt: skip
        beta = beta_at(base.reward, base.groups, reward)
        if np.isnan(beta):
            return Compared(*own, *([float("nan")] * 8))
        tilt, weights = self.at(beta), tilted(base.reward, base.groups, beta)
        return Compared(
            *own, beta, tilt.effective, tilt.gold, tilt.diversity, tilt.diversity_pixels,
            divergence(shares, np.array(tilt.shares)),
            frechet(found.reading, even, base.reading, weights), self._floor(weights, found.groups),
        )  # fmt: skip

    def _floor(self, weights: np.ndarray, groups: np.ndarray) -> float:
        """The Frechet distance that chance makes, in the mean over halves of the base.

        Pictures are drawn by weight from one half, as many of each prompt as there are in `groups`, and held against
        the other, so that none is compared with itself.
        """
        random, features = np.random.default_rng(0), self.base.reading
        found = []
        for _ in range(_RESAMPLED):
            drawn, others = [], []
            for group, members in zip(np.unique(groups), self._reading.members, strict=True):
                one, other = np.array_split(random.permutation(members), 2)
                share = weights[one] / weights[one].sum()
                drawn.append(random.choice(one, size=int((groups == group).sum()), p=share))
                others.append((other, weights[other] / weights[other].sum()))
            rows, theirs = np.concatenate(drawn), np.concatenate([rows for rows, _ in others])
            law = np.concatenate([of for _, of in others])
            found.append(frechet(features[rows], np.ones(len(rows)), features[theirs], law))
        return float(np.mean(found))
