"""The tilt of a sampled law, by reweighting: p(x | c) exp(beta r(x)) / Z(c) for each prompt c, and what it comes to.

Samples are drawn from p; weights sum to one within each prompt, and every expectation is the mean over prompts. How
many samples an estimate still rests on is the effective sample size 1 / sum w^2 of a prompt.
"""

from __future__ import annotations

import numpy as np

_ALONE = 1e-9  # less than this of a prompt's weight is not told from rounding


def tilted(reward: np.ndarray, groups: np.ndarray, beta: float) -> np.ndarray:
    """Weights `(B,)` float64 of the tilt, which sum to one within each prompt.

    Args:
        reward: `(B,)`, finite.
        groups: `(B,)` int64, the prompt of each sample.
        beta: Any number; 0 is the sampled law itself.
    """
    weights = np.empty(len(reward))
    for group in np.unique(groups):
        mine = groups == group
        logs = beta * np.asarray(reward[mine], float)
        of = np.exp(logs - logs.max())
        weights[mine] = of / of.sum()
    return weights


def effective_sizes(weights: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The effective sample size of each prompt, `(prompts,)`: from 1 up to the number of its samples."""
    return np.array([1 / (weights[groups == group] ** 2).sum() for group in np.unique(groups)])


def expected(values: np.ndarray, weights: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The mean over prompts of the weighted mean of values `(B, ...)`."""
    return np.tensordot(weights, np.asarray(values, float), axes=1) / len(np.unique(groups))


def deviation(reward: np.ndarray, groups: np.ndarray) -> float:
    """The standard deviation of the reward within a prompt: the root of the mean over prompts of its variance."""
    return float(np.sqrt(np.mean([reward[groups == group].var() for group in np.unique(groups)])))


def beta_at(reward: np.ndarray, groups: np.ndarray, target: float, most: float = 1e3) -> float:
    """The beta whose tilt has an expected reward of `target`, which rises with beta; NaN where none in +-`most` has.

    Args:
        reward: `(B,)`, finite.
        groups: `(B,)` int64.
        target: A reward.
        most: Where the search ends.
    """

    def missing(beta: float) -> float:
        return target - float(expected(reward, tilted(reward, groups, beta), groups))

    low, high = -most, most
    if missing(low) < 0 or missing(high) > 0:
        return float("nan")
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if missing(middle) > 0 else (low, middle)
    return (low + high) / 2


class Spread:
    """The distances between the features of all samples of a prompt, for the diversity of any weights on them.

    Args:
        features: `(B, D)`.
        groups: `(B,)` int64.
    """

    def __init__(self, features: np.ndarray, groups: np.ndarray) -> None:
        self.members = [np.nonzero(groups == group)[0] for group in np.unique(groups)]
        self._distances = [distances(own, own) for own in (features[rows] for rows in self.members)]

    def diversity(self, weights: np.ndarray) -> float:
        """The mean distance of two different samples of a prompt, averaged over prompts.

        Args:
            weights: `(B,)`, which sum to one within each prompt.

        Returns:
            That mean, in the features' units; NaN where all weight of a prompt is on one sample.
        """
        found = []
        for rows, between in zip(self.members, self._distances, strict=True):
            of = weights[rows]
            others = 1 - (of**2).sum()
            found.append(of @ between @ of / others if others > _ALONE else float("nan"))
        return float(np.mean(found))


def distances(features: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Euclidean distances `(m, n)` float32 of the rows of `(m, D)` from those of `(n, D)`."""
    squares = (features**2).sum(axis=1)[:, None] + (others**2).sum(axis=1)[None] - 2 * features @ others.T
    found = np.sqrt(np.maximum(squares, 0))
    if features is others:
        np.fill_diagonal(found, 0)  # where rounding leaves something
    return found


def frechet(features: np.ndarray, weights: np.ndarray, others: np.ndarray, other_weights: np.ndarray) -> float:
    """The Frechet distance of two weighted samples' Gaussians, squared, as in the FID (Heusel et al. 2017, eq. 6).

    |m - m'|^2 + tr(S + S' - 2 (S^1/2 S' S^1/2)^1/2). Of few samples it is above 0 also where the laws are the same.

    Args:
        features: `(m, D)`.
        weights: `(m,)`, of any sum.
        others: `(n, D)`.
        other_weights: `(n,)`, of any sum.
    """
    mean, covariance = _moments(features, weights)
    other_mean, other_covariance = _moments(others, other_weights)
    values, vectors = np.linalg.eigh(covariance)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    shared = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ other_covariance @ root), 0)).sum()
    return float(((mean - other_mean) ** 2).sum() + np.trace(covariance) + np.trace(other_covariance) - 2 * shared)


def _moments(features: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    of, values = weights / weights.sum(), np.asarray(features, float)
    mean = of @ values
    return mean, (values - mean).T @ ((values - mean) * of[:, None])


def energy(features: np.ndarray, groups: np.ndarray, others: np.ndarray, other_groups: np.ndarray) -> float:
    """Energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'| between two samples, averaged over prompts, without bias.

    Both must have every prompt; the samples must have been drawn independently of each other.
    """
    found = []
    for group in np.unique(groups):
        one, two = features[groups == group], others[other_groups == group]
        within = [distances(x, x).sum() / (len(x) * (len(x) - 1)) for x in (one, two)]
        found.append(2 * distances(one, two).mean() - sum(within))
    return float(np.mean(found))


def divergence(shares: np.ndarray, others: np.ndarray) -> float:
    """KL(shares || others) of two discrete laws `(n,)`, nats; what one of them lacks counts as 1e-3."""
    p, q = (np.maximum(np.asarray(of, float), 1e-3) for of in (shares, others))
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())
