"""The reward protocol: pixels to images and back, gradients, refusals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from torch import Tensor

from rewards.reward import Reward, to_images, to_pixels


class MeanSquare(Reward):
    """d/dx mean(x^2) = 2 x / n."""

    differentiable = True

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.square().mean(dim=(1, 2, 3))


class BlackBox(Reward):
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(images))


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6).map(lambda s: (*s, 3))))
@settings(deadline=None, max_examples=50)
def test_pixels_survive_the_way_to_images_and_back(pixels: np.ndarray) -> None:
    images = to_images(pixels)
    assert images.dtype == torch.float32
    np.testing.assert_array_equal(to_pixels(images), pixels)


def test_each_of_the_256_levels_survives() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    np.testing.assert_array_equal(to_pixels(to_images(levels)), levels)


def test_channels_go_first_and_bytes_become_shares() -> None:
    pixels = np.zeros((2, 4, 5, 3), np.uint8)
    pixels[1, 2, 3] = [255, 51, 0]
    images = to_images(pixels)
    assert images.shape == (2, 3, 4, 5)
    torch.testing.assert_close(images[1, :, 2, 3], torch.tensor([1.0, 0.2, 0.0]))
    assert images.sum() == pytest.approx(1.2)


def test_read_only_pixels_are_copied() -> None:
    pixels = np.full((1, 2, 2, 3), 7, np.uint8)
    pixels.flags.writeable = False
    to_images(pixels).add_(1.0)
    assert (pixels == 7).all()


@pytest.mark.parametrize(("value", "byte"), [(-80, 0), (400, 255), (0.49, 0), (0.51, 1), (99.6, 100)])
def test_values_are_clamped_and_rounded(value: float, byte: int) -> None:
    assert (to_pixels(torch.full((1, 3, 1, 1), value / 255)) == byte).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_the_gradient_is_the_analytic_one_in_float32(dtype: torch.dtype) -> None:
    images = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():  # as in the reward actor
        scores, gradient = MeanSquare().score_and_grad(images, ["a"] * 3)
    assert scores.dtype == gradient.dtype == torch.float32
    assert not scores.requires_grad
    torch.testing.assert_close(scores, images.float().square().mean(dim=(1, 2, 3)))
    torch.testing.assert_close(gradient, 2 * images.float() / 60)


def test_the_gradient_leaves_the_images_graph_alone() -> None:
    images = torch.rand(1, 3, 2, 2, requires_grad=True)
    before = images.detach().clone()
    MeanSquare().score_and_grad(images, ["a"])
    assert images.grad is None
    assert torch.equal(images, before)


def test_a_black_box_has_neither_gradient_nor_features() -> None:
    images = torch.zeros(1, 3, 2, 2)
    with pytest.raises(TypeError, match="BlackBox has no gradient"):
        BlackBox().score_and_grad(images, ["a"])
    with pytest.raises(TypeError, match="BlackBox has no image features"):
        BlackBox().embed(images)
