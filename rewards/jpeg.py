"""JPEG compressibility and its opposite (Black et al., arXiv 2305.13301, section 5.1): black boxes for every setup."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rewards.reward import Reward, to_pixels


class JpegCompressibility(Reward):
    """Minus the size of the image as a JPEG file, in kB (1000 bytes).

    Args:
        quality: Of the JPEG encoder.
    """

    def __init__(self, quality: int = 95) -> None:
        self._quality = quality

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([-self._size(image) / 1000 for image in to_pixels(images)])

    def _size(self, image: np.ndarray) -> int:
        buffer = BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=self._quality)
        return buffer.tell()


class JpegIncompressibility(JpegCompressibility):
    """The size of the image as a JPEG file, in kB (1000 bytes).

    Args:
        quality: Of the JPEG encoder.
    """

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return -super().score(images, prompts)
