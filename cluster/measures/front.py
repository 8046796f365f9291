"""The Pareto front: what nothing else beats in every respect."""

from __future__ import annotations

import numpy as np


def front(points: np.ndarray) -> np.ndarray:
    """Which points no other is at least as good as in every coordinate and better than in one.

    Args:
        points: `(N, K)`, of which more is better; one that is not finite is on no front and beats nothing.

    Returns:
        `(N,)` bool.
    """
    known = np.isfinite(points).all(axis=1)
    at_least = (points[None] >= points[:, None]).all(axis=2)
    better = (points[None] > points[:, None]).any(axis=2)
    return known & ~(at_least & better & known[None]).any(axis=1)
