"""The preprocessing that the CLIP family shares: PIL's arithmetic, with gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from rewards.preprocessing import CLIP_MEAN, CLIP_STD, long_side_pad, normalise, short_side_crop
from rewards.reward import to_images

sides = st.integers(1, 60)
SHAPES = [(48, 48), (64, 64), (100, 64), (33, 71), (20, 31), (7, 90), (48, 51)]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """`(H, W, 3)` uint8, with smooth parts, edges and noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    waves = 127 + 120 * np.sin(rows[..., None] / 5 + columns[..., None] / np.array([7, 11, 13]))
    waves[: height // 3, : width // 2] = 255
    return np.clip(waves + rng.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)


def pil_resize(pixels: np.ndarray, height: int, width: int) -> Tensor:
    resized = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    return to_images(np.asarray(resized)[None])


@given(sides, sides, st.integers(1, 40))
def test_any_shape_becomes_a_square_in_range(height: int, width: int, size: int) -> None:
    images = 3 * torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(height)) - 1
    cropped, padded = short_side_crop(images, size), long_side_pad(images, size)
    assert cropped.shape == padded.shape == (2, 3, size, size)
    assert cropped.min() >= 0
    assert cropped.max() <= 1


@pytest.mark.parametrize("prepare", [short_side_crop, long_side_pad])
def test_a_picture_of_the_right_size_is_left_as_it_is(prepare) -> None:
    images = torch.rand(2, 3, 24, 24)
    assert torch.equal(prepare(images, 24), images)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_crop_agrees_with_pil_to_its_rounding(height: int, width: int) -> None:
    """PIL filters one direction after the other, and rounds and clips after each."""
    pixels, size = picture(height, width), 48
    short = min(height, width)
    tall, wide = int(size * height / short), int(size * width / short)
    top, left = (tall - size) // 2, (wide - size) // 2
    expected = pil_resize(pixels, tall, wide)[..., top : top + size, left : left + size]
    difference = (short_side_crop(to_images(pixels[None]), size) - expected).abs()
    assert difference.max() <= 1.5 / 255
    assert difference.mean() <= 0.4 / 255


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_the_padded_picture_agrees_with_pil_between_black_bars(height: int, width: int) -> None:
    pixels, size = picture(height, width) // 2 + 64, 48  # low in contrast: PIL would clip between the directions
    tall, wide = round(height * size / max(height, width)), round(width * size / max(height, width))
    top, left = (size - tall) // 2, (size - wide) // 2
    padded = long_side_pad(to_images(pixels[None]), size)
    inside = padded[..., top : top + tall, left : left + wide]
    assert (inside.clamp(0, 1) - pil_resize(pixels, tall, wide)).abs().max() <= 1.5 / 255
    bars = padded.clone()
    bars[..., top : top + tall, left : left + wide] = 0
    assert not bars.any()


@pytest.mark.parametrize("rounding", [math.floor, round])
def test_a_smaller_square_is_the_middle_of_the_larger_one(rounding: Callable[[float], int]) -> None:
    images = to_images(picture(60, 90)[None])
    whole, cut = short_side_crop(images, 48), short_side_crop(images, 48, 41, rounding=rounding)
    offset = rounding(3.5)
    beside = rounding((72 - 41) / 2) - 12
    assert whole.shape[-2:] == (48, 48)
    assert torch.equal(cut, whole[..., offset : offset + 41, beside : beside + 41])


def test_the_filter_is_antialiased() -> None:
    """A chequerboard of single pixels shrinks to grey; without antialiasing it would stay black and white."""
    board = torch.from_numpy(np.indices((64, 64)).sum(axis=0) % 2).float().expand(1, 3, 64, 64)
    assert (short_side_crop(board, 16)[..., 2:-2, 2:-2] - 0.5).abs().max() < 0.02


def test_an_odd_margin_is_rounded_as_asked() -> None:
    images = torch.arange(11.0).expand(1, 3, 8, 11) / 10
    assert short_side_crop(images, 8)[0, 0, 0, 0].item() == pytest.approx(0.1)
    assert short_side_crop(images, 8, rounding=math.floor)[0, 0, 0, 0].item() == pytest.approx(0.1)
    assert short_side_crop(images, 8, rounding=round)[0, 0, 0, 0].item() == pytest.approx(0.2)


@given(st.floats(0, 1), sides, sides, st.integers(1, 40))
def test_one_colour_stays_one_colour(value: float, height: int, width: int, size: int) -> None:
    images = torch.full((1, 3, height, width), value)
    torch.testing.assert_close(
        short_side_crop(images, size), torch.full((1, 3, size, size), value), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize(("height", "width"), [(30, 30), (24, 36), (36, 24)])
def test_mirroring_the_picture_mirrors_the_result(height: int, width: int) -> None:
    images = torch.rand(1, 3, height, width, dtype=torch.float64)
    for prepare in (short_side_crop, long_side_pad):
        torch.testing.assert_close(prepare(images.flip(-1, -2), 12), prepare(images, 12).flip(-1, -2))


def test_pictures_of_a_batch_do_not_mix() -> None:
    images = torch.rand(3, 3, 30, 41)
    torch.testing.assert_close(short_side_crop(images, 16)[1:2], short_side_crop(images[1:2], 16))
    torch.testing.assert_close(long_side_pad(images, 16)[1:2], long_side_pad(images[1:2], 16))


@pytest.mark.parametrize("prepare", [short_side_crop, long_side_pad])
@pytest.mark.parametrize(("height", "width"), [(12, 12), (20, 12), (9, 17)])
def test_gradients_equal_finite_differences(prepare, height: int, width: int) -> None:
    images = 0.2 + 0.6 * torch.rand(1, 3, height, width, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: normalise(prepare(x, 12)), images.requires_grad_())


@pytest.mark.parametrize("prepare", [short_side_crop, long_side_pad])
def test_only_pixels_outside_the_range_lose_their_gradient(prepare) -> None:
    images = torch.tensor([-0.1, 0.0, 0.5, 1.0]).expand(1, 3, 4, 4).clone().requires_grad_()
    prepare(images, 4).sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad[0, 0], torch.tensor([0.0, 1, 1, 1]).expand(4, 4))


def test_normalising_gives_each_channel_its_own_constants() -> None:
    images = torch.rand(2, 3, 5, 6)
    expected = (images.permute(0, 2, 3, 1).numpy() - CLIP_MEAN) / CLIP_STD
    np.testing.assert_allclose(normalise(images).permute(0, 2, 3, 1).numpy(), expected, rtol=1e-5, atol=1e-6)
