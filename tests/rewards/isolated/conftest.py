"""What the checks share that run inside the rewards' environments; see `tests/rewards/test_environments.py`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

PROMPTS = ("a red circle", "four blue stars on the left", "a circle " * 40)  # the last is longer than any model reads


@pytest.fixture
def pictures() -> Callable[[int, int], list[Image.Image]]:
    """Makes four pictures of a size: smooth, colourful, each different."""

    def make(width: int, height: int) -> list[Image.Image]:
        coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 7, 3), dtype=np.uint8)
        return [Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC) for pixels in coarse]

    return make


def as_images(pictures: list[Image.Image]) -> Tensor:
    """`(B, 3, H, W)` float32 in [0, 1], as rewards take them."""
    return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).float() / 255


def excite(model: nn.Module) -> None:
    """Random weights so large that different pictures and prompts get different scores."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            scale = 0.05 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
            parameter += 1.5 * scale * torch.randn(parameter.shape, generator=generator)
