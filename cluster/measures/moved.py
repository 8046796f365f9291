"""How far a model's pictures of a prompt are from the base model's: FID and KID by torchmetrics, on features given.

Both sets share their noise, picture by picture, so that a set is compared with the other half of the other: the first
half of the one with the second half of the other and the other way round, averaged. What an unchanged model has is then
what the base model has against itself: of KID 0 but for chance, of FID a floor that grows as the sets get smaller.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

Distance = Callable[[np.ndarray, np.ndarray], float]  # of features `(n, D)` and `(m, D)`


class _AsGiven(nn.Module):
    """The feature extractor of what are features already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, features: Tensor) -> Tensor:
        return features


def fid(features: np.ndarray, others: np.ndarray) -> float:
    """Fréchet distance of the normal distributions with the sets' moments (Heusel et al. 2017)."""
    return float(_asked(FrechetInceptionDistance(_AsGiven(features.shape[1])), features, others))


def kid(features: np.ndarray, others: np.ndarray) -> float:
    """Squared MMD under the kernel (x y / D + 1)^3, without bias (Binkowski et al. 2018); may fall below 0 by chance.

    All pictures at once: of sets of different sizes the larger one's last rows are left out.
    """
    size = min(len(features), len(others))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save")
        metric = KernelInceptionDistance(_AsGiven(features.shape[1]), subsets=1, subset_size=size)
    return float(_asked(metric, features[:size], others[:size])[0])


def _asked(metric: Metric, features: np.ndarray, others: np.ndarray) -> Any:
    for rows, real in ((others, True), (features, False)):
        metric.update(torch.from_numpy(rows.astype(np.float64)), real=real)
    with torch.random.fork_rng(devices=[]):  # KID shuffles
        return metric.compute()


def across_halves(distance: Distance, features: np.ndarray, base: np.ndarray) -> float:
    """A distance of the pictures of one prompt between different noises.

    Args:
        distance: `fid` or `kid`.
        features: `(n, D)` of a model's pictures.
        base: `(n, D)` of the base model's from the same noise, in the same order.

    Returns:
        NaN where there are fewer than four pictures of which both are finite.
    """
    known = np.isfinite(features).all(axis=1) & np.isfinite(base).all(axis=1)
    mine, theirs = features[known], base[known]
    if len(mine) < 4:
        return float("nan")
    half = len(mine) // 2
    return (distance(mine[:half], theirs[half:]) + distance(mine[half:], theirs[:half])) / 2
