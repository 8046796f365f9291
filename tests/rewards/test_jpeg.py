"""JPEG compressibility and its opposite: the size of the very file that Pillow writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rewards.jpeg import JpegCompressibility, JpegIncompressibility
from rewards.reward import to_images

NOISE = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
FLAT = np.full_like(NOISE, 128)


@pytest.mark.parametrize("quality", [30, 95])
def test_the_score_is_minus_the_kilobytes_of_the_file(quality: int, tmp_path: Path) -> None:
    scores = JpegCompressibility(quality).score(to_images(np.stack([NOISE, FLAT])), ["", ""])
    assert scores.dtype == torch.float32
    for score, pixels in zip(scores, (NOISE, FLAT), strict=True):
        file = tmp_path / "image.jpg"
        Image.fromarray(pixels).save(file, quality=quality)
        assert score.item() == pytest.approx(-file.stat().st_size / 1000)


def test_quality_is_95_unless_told() -> None:
    images = to_images(NOISE[None])
    assert torch.equal(JpegCompressibility().score(images, [""]), JpegCompressibility(95).score(images, [""]))


def test_less_detail_scores_higher() -> None:
    smooth = np.asarray(Image.fromarray(NOISE).resize((8, 6)).resize((64, 48)))
    scores = JpegCompressibility().score(to_images(np.stack([NOISE, smooth, FLAT])), [""] * 3)
    assert scores[0] < scores[1] < scores[2] < 0


def test_it_has_no_gradient() -> None:
    with pytest.raises(TypeError, match="JpegCompressibility has no gradient"):
        JpegCompressibility().score_and_grad(to_images(FLAT[None]), [""])


def test_incompressibility_is_the_size_itself() -> None:
    images, prompts = to_images(np.stack([NOISE, FLAT])), ["", ""]
    sizes = -JpegCompressibility(50).score(images, prompts)
    assert torch.equal(JpegIncompressibility(50).score(images, prompts), sizes)
    assert sizes[0] > sizes[1] > 0
