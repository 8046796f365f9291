"""The aesthetic reward: what it ships foretells choices of its taste, and its gradient is smooth and its score's."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rewards.shapes_aesthetic import ShapesAesthetic
from shapes import AESTHETIC
from shapes.aesthetic import Aesthetic
from shapes.fit_aesthetic import measure, pictures, to_images
from shapes.worlds import WORLDS, World

everywhere = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


@pytest.fixture(scope="module")
def reward() -> ShapesAesthetic:
    return ShapesAesthetic()


def drawn(world: World, count: int) -> tuple[np.ndarray, np.ndarray]:
    return pictures(count, world, random.Random(5))


@everywhere
def test_the_shipped_score_is_nearly_as_good_as_the_taste(reward: ShapesAesthetic, world: World) -> None:
    found = measure(reward._network, *drawn(world, 600), np.random.default_rng(0))
    assert found["network"] > found["taste"] - 0.06
    assert found["correlation"] > 0.85


def test_what_is_shipped_is_small() -> None:
    assert sum(file.stat().st_size for file in Path(AESTHETIC).iterdir()) < 1e6


@everywhere
def test_the_prompt_counts_for_nothing(reward: ShapesAesthetic, world: World) -> None:
    images = to_images(drawn(world, 4)[0])
    torch.testing.assert_close(reward.score(images, ["a"] * 4), reward.score(images, ["b"] * 4))


@everywhere
def test_the_gradient_equals_central_differences(reward: ShapesAesthetic, world: World) -> None:
    images = to_images(drawn(world, 3)[0])
    _, gradient = reward.score_and_grad(images, [""] * 3)
    network = Aesthetic.from_pretrained(AESTHETIC).double().eval().requires_grad_(False)
    made = torch.Generator().manual_seed(0)
    for direction in (torch.randn(images.shape, generator=made, dtype=torch.float64), gradient.double()):
        ahead, behind = (network(images.double() + h * direction) for h in (1e-4, -1e-4))
        torch.testing.assert_close(
            (gradient * direction).sum(dim=(1, 2, 3)), (ahead - behind) / 2e-4, rtol=1e-3, atol=1e-5
        )


def turned(one: Tensor, other: Tensor) -> Tensor:
    """The cosine between the gradients of each picture."""
    return torch.nn.functional.cosine_similarity(one.flatten(1), other.flatten(1))


@everywhere
def test_the_gradient_hardly_turns_under_a_little_noise(reward: ShapesAesthetic, world: World) -> None:
    """What a gradient at one picture says holds in its neighbourhood: noise of 2 of 255 in every pixel."""
    images = to_images(drawn(world, 32)[0])
    noise = 2 / 255 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    _, here = reward.score_and_grad(images, [""] * 32)
    _, there = reward.score_and_grad(images + noise, [""] * 32)
    assert turned(here, there).mean() > 0.9


@everywhere
def test_warmer_is_nicer(reward: ShapesAesthetic, world: World) -> None:
    images = to_images(drawn(world, 64)[0])
    warmer = (images + torch.tensor([0.06, 0.0, -0.06])[:, None, None]).clamp(0, 1)
    assert (reward.score(warmer, [""] * 64) > reward.score(images, [""] * 64)).float().mean() > 0.9
