"""How much each feature of a picture counts for who chooses: the Bradley-Terry model, linear in features.

    P(the first rather than the second) = p = sigmoid(w . (x_first - x_second))
    w = argmin  mean over pairs of -[y log p + (1 - y) log(1 - p)]  +  decay / 2 |w|^2       y = .5 for a tie

The problem is convex, so w does not depend on where it starts. What is said of pairs that are held out, is said by
cross-validation: each fold by a w that has seen none of it, whose decay was chosen inside the rest in the same way.

Source: Bradley & Terry 1952; expected calibration error: Guo et al. 2017 (arXiv 1706.04599).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit
from scipy.stats import binomtest

DECAYS = (0.03, 0.1, 0.3, 1.0, 3.0)
_FOLDS, _BINS = 5, 5


def fit(differences: np.ndarray, labels: np.ndarray, decay: float) -> np.ndarray:
    """The weights `(D,)`.

    Args:
        differences: Features of the first picture of each pair less those of the second, `(N, D)` float64.
        labels: `(N,)` in [0, 1], 1: the first was chosen.
        decay: Weight decay.
    """

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        logits = differences @ w
        value = log_loss(logits, labels) + decay / 2 * w @ w
        return value, differences.T @ (expit(logits) - labels) / len(labels) + decay * w

    start = np.zeros(differences.shape[1])
    return minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x


def log_loss(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean of -[y log p + (1 - y) log(1 - p)]; ln 2 for who knows nothing."""
    return float((np.logaddexp(0, logits) - labels * logits).mean())


def connected(pictures: np.ndarray) -> np.ndarray:
    """Numbers `(N,)` of the sets of pairs that hang together by pictures that they share.

    Args:
        pictures: Numbers of the two pictures of each pair, `(N, 2)` int64.
    """
    size = int(pictures.max()) + 1
    links = coo_array((np.ones(len(pictures)), (pictures[:, 0], pictures[:, 1])), (size, size))
    return connected_components(links, directed=False)[1][pictures[:, 0]]


def folds(groups: np.ndarray, seed: int) -> np.ndarray:
    """In which of at most five folds each pair is held out, `(N,)`; groups stay whole, unless there is only one.

    Args:
        groups: Numbers `(N,)` of the groups.
        seed: Of the order in which groups of equal size are given to the smallest fold.
    """
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) == 1:
        names, sizes, groups = np.arange(len(groups)), np.ones(len(groups), int), np.arange(len(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    filled, fold_of = np.zeros(min(_FOLDS, len(names)), int), {}
    for place in order[np.argsort(-sizes[order], kind="stable")]:
        fold_of[names[place]] = smallest = int(filled.argmin())
        filled[smallest] += sizes[place]
    return np.array([fold_of[name] for name in groups])


def choose_decay(differences: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> float:
    """The decay of `DECAYS` with the least log loss on held-out pairs; arguments as in `judge_held_out`."""
    if len(labels) == 1:  # which nothing can be held out of
        return DECAYS[-1]
    fold, losses = folds(groups, seed), []
    for decay in DECAYS:
        logits = np.empty(len(labels))
        for number in range(fold.max() + 1):
            out = fold == number
            logits[out] = differences[out] @ fit(differences[~out], labels[~out], decay)
        losses.append(log_loss(logits, labels))
    return DECAYS[int(np.argmin(losses))]


def judge_held_out(differences: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Logits `(N,)` of each pair, by weights and a decay that were found without its fold.

    Args:
        differences: See `fit`.
        labels: See `fit`.
        groups: See `folds`.
        seed: Of the folds.
    """
    fold, logits = folds(groups, seed), np.empty(len(labels))
    for number in range(fold.max() + 1):
        out = fold == number
        rest = differences[~out], labels[~out]
        logits[out] = differences[out] @ fit(*rest, choose_decay(*rest, groups[~out], seed))
    return logits


def accuracy(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """The share of choices that are foretold, and Wilson's interval of 95 %, which takes pairs as independent.

    Ties of people are left out; there must be a choice. Where the model has none, with a logit of 0, half is foretold.
    """
    chosen = labels != 0.5
    own, count = np.sign(logits[chosen]), int(chosen.sum())
    hits = float((0.5 + 0.5 * own * np.sign(labels[chosen] - 0.5)).sum())
    interval = binomtest(round(hits), count).proportion_ci(0.95, "wilson")
    return hits / count, float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Bin:
    """Pairs of which a model is about as sure.

    Args:
        low: The least probability of the picture that it holds for the better one.
        sure: The mean of these probabilities.
        right: How often that picture was chosen, a tie as half.
        pairs: How many pairs there are.
    """

    low: float
    sure: float
    right: float
    pairs: int


def reliability(logits: np.ndarray, labels: np.ndarray) -> list[Bin]:
    """Five bins of equal width from .5 to 1; empty ones are left out."""
    sure, right = expit(np.abs(logits)), 0.5 + np.sign(logits) * (labels - 0.5)
    place = np.minimum(((sure - 0.5) * 2 * _BINS).astype(int), _BINS - 1)
    inside = [(0.5 + number / (2 * _BINS), place == number) for number in range(_BINS)]
    return [
        Bin(low, float(sure[own].mean()), float(right[own].mean()), int(own.sum())) for low, own in inside if own.any()
    ]


def calibration_error(bins: Sequence[Bin]) -> float:
    """The expected calibration error: the mean over pairs of |how sure - how often right| of their bin."""
    return sum(own.pairs * abs(own.sure - own.right) for own in bins) / sum(own.pairs for own in bins)
