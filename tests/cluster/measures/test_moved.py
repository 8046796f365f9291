"""FID and KID: the library's on the same features, those of known distributions, and what is compared with what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from cluster.measures.moved import Distance, across_halves, fid, kid


class Corner(nn.Module):
    """Reads features off a picture's corner, as an extractor of the library's."""

    num_features = 12

    def forward(self, pictures: Tensor) -> Tensor:
        return pictures.double()[:, :, :2, :2].flatten(1) / 255


def pictures(seed: int, count: int = 20) -> Tensor:
    return torch.randint(0, 255, (count, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.filterwarnings("ignore:Metric `Kernel")
def test_they_are_the_librarys_on_the_same_features() -> None:
    mine, base, corner = pictures(0), pictures(1), Corner()
    features, others = corner(mine).numpy(), corner(base).numpy()
    of_library = FrechetInceptionDistance(corner), KernelInceptionDistance(corner, subsets=1, subset_size=20)
    for metric in of_library:
        metric.update(base, real=True)
        metric.update(mine, real=False)
    assert fid(features, others) == pytest.approx(float(of_library[0].compute()), abs=1e-12)
    assert kid(features, others) == pytest.approx(float(of_library[1].compute()[0]), abs=1e-12)
    assert fid(features, others) > 1e-3


def test_they_leave_the_processs_generator_alone() -> None:
    before = torch.random.get_rng_state()
    kid(np.eye(4), np.ones((4, 4)))
    assert torch.random.get_rng_state().equal(before)


def test_the_frechet_distance_of_normal_distributions() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(200, 2))
    normal = (normal - normal.mean(axis=0)) / normal.std(axis=0, ddof=1)
    # One coordinate alone: (m - n)^2 + (s - t)^2 for each.
    features = np.stack([normal[:, 0] * 3 + 5, np.zeros(200)], axis=1)
    others = np.stack([normal[:, 0], np.zeros(200)], axis=1)
    assert fid(features, others) == pytest.approx(25 + 4, abs=1e-6)


def test_the_kernel_distance_has_no_bias() -> None:
    rng = np.random.default_rng(0)
    found = [kid(rng.normal(size=(6, 4)), rng.normal(size=(6, 4))) for _ in range(300)]
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(300)
    assert kid(rng.normal(size=(6, 4)) + 3, rng.normal(size=(6, 4))) > 1


def test_halves_of_other_noise_are_compared_and_what_is_missing_takes_its_partner_along() -> None:
    features, base = np.arange(12.0).reshape(6, 2), 100 + np.arange(12.0).reshape(6, 2)
    seen = []

    def distance(mine: np.ndarray, theirs: np.ndarray) -> float:
        seen.append((mine[:, 0].tolist(), theirs[:, 0].tolist()))
        return float(len(seen))

    assert across_halves(distance, features, base) == 1.5
    assert seen == [([0, 2, 4], [106, 108, 110]), ([6, 8, 10], [100, 102, 104])]
    base[1] = np.nan
    seen.clear()
    across_halves(distance, features, base)
    assert seen == [([0, 4], [106, 108, 110]), ([6, 8, 10], [100, 104])]
    base[:3] = np.nan
    assert math.isnan(across_halves(distance, features, base))


@pytest.mark.parametrize("distance", [fid, kid])
def test_an_unchanged_model_is_as_far_as_the_base_is_from_itself(distance: Distance) -> None:
    base = np.random.default_rng(0).normal(size=(8, 3))
    floor = across_halves(distance, base, base)
    assert across_halves(distance, base + 2, base) > floor + 1


def test_of_unit_vectors_the_kernel_distance_sees_the_shift_of_the_mean_alone() -> None:
    axes, signs = np.eye(256)[:2, None], np.tile([1.0, -1.0], 200)[:, None]
    shifted = kid(*(axis * np.ones_like(signs) for axis in axes))  # 6 / D and terms of 1 / D^2
    spread = kid(*(axis * signs for axis in axes))  # along another line around the same mean
    assert shifted == pytest.approx(6 / 256, rel=4 / 256)
    assert abs(spread) < shifted / 256
