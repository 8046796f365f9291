"""A rater with a taste of its own, which no reward of ours has: small warm shapes on grey, read off the picture."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from rewards.people.choices import BOTH_BAD, TIE
from rewards.reward import to_pixels

_GREY = (128, 128, 128)
_SAME, _BAD = 0.1, 0.5  # differences that nobody sees; what nobody likes


def picture(rng: np.random.Generator, side: int = 64) -> bytes:
    """The PNG file of a disc, warm or cold, small or large, on grey or on another ground."""
    ground = _GREY if rng.random() < 0.5 else tuple(rng.choice([(20, 20, 20), (240, 240, 240), (90, 160, 90)]).tolist())
    warm, low = rng.integers(180, 256), rng.integers(0, 90)
    colour = (int(warm), int(rng.integers(60, 130)), int(low))
    radius = rng.uniform(0.08, 0.42) * side
    x, y = rng.uniform(radius, side - radius, 2)
    image = Image.new("RGB", (side, side), ground)
    fill = colour if rng.random() < 0.5 else colour[::-1]
    ImageDraw.Draw(image).ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    image.save(file := BytesIO(), "PNG")
    return file.getvalue()


def taste(path: Path) -> float:
    """How much the rater likes a picture's file, see `liking`."""
    with Image.open(path) as image:
        return liking(np.asarray(image.convert("RGB")))


def liking(picture: np.ndarray) -> float:
    """How much the rater likes a picture, from 0 to 3: a point each for grey, for warm, and for small.

    Args:
        picture: `(H, W, 3)` uint8.
    """
    pixels = picture.astype(float)
    ground = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    shape = pixels[np.abs(pixels - ground).max(axis=-1) > 30]
    grey = float(np.abs(ground - 128).max() < 25)
    warm = float(len(shape) > 0 and shape[:, 0].mean() > shape[:, 2].mean())
    return grey + warm + max(0.0, 1 - 4 * len(shape) / pixels[..., 0].size)


def verdict(left: Path, right: Path) -> int | str:
    """What the rater says of two pictures: the place of the better one, or neither."""
    return of_two(taste(left), taste(right))


def of_two(one: float, other: float) -> int | str:
    """What a rater who likes two pictures so much says of them: the place of the better one, or neither."""
    if max(one, other) < _BAD:
        return BOTH_BAD
    return TIE if abs(one - other) < _SAME else int(other > one)


def likings(images: Any, prompts: Sequence[str]) -> list[float]:
    """The taste as a reward of a run, of images `(B, 3, H, W)` in [0, 1] and whatever prompts."""
    return [liking(picture) for picture in to_pixels(images)]
