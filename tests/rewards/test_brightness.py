"""Brightness: its values, and a gradient that is the same everywhere."""

from __future__ import annotations

import torch

from rewards.brightness import Brightness


def test_brightness_is_the_mean_from_black_to_white() -> None:
    images = torch.stack([torch.full((3, 4, 6), value) for value in (0.0, 0.25, 1.0)])
    images[1, 0] = 1.0  # of three colours one
    assert Brightness().score(images, [""] * 3).tolist() == [0.0, 0.5, 1.0]


def test_its_gradient_is_the_same_everywhere() -> None:
    images = torch.rand(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    scores, gradient = Brightness().score_and_grad(images, ["", ""])
    torch.testing.assert_close(scores, images.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(gradient, torch.full_like(images, 1 / (3 * 4 * 6)))
