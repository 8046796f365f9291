"""How different the pictures of a prompt are, in some features."""

from __future__ import annotations

import numpy as np
from scipy.stats import entropy


def mean_pairwise_distance(features: np.ndarray) -> float:
    """Mean Euclidean distance over all pairs of rows of `(n, D)`; NaN of fewer than two."""
    if len(features) < 2:
        return float("nan")
    rows, columns = np.triu_indices(len(features), k=1)
    return float(np.linalg.norm(features[rows] - features[columns], axis=1).mean())


def vendi(features: np.ndarray) -> float:
    """How many different pictures there effectively are (the Vendi score, Friedman & Dieng, TMLR 2023).

    The exponential of the entropy of the eigenvalues of K / n, where K holds the cosines of the rows: 1 where all point
    the same way, n where each is at right angles to all others.

    Args:
        features: `(n, D)`.

    Returns:
        From 1 to n; NaN of fewer than two rows, or where one is zero.
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if len(features) < 2 or not lengths.all():
        return float("nan")
    unit = features.astype(np.float64) / lengths
    return float(np.exp(entropy(np.linalg.eigvalsh(unit @ unit.T / len(unit)).clip(min=0))))
