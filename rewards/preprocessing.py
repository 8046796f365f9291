"""What the CLIP family and DINO see of a picture: resizing, cropping or padding, and normalising, with gradients.

The published preprocessings work on PIL images, through which no gradient flows. These do the same to tensors: PIL's
bicubic filter with antialiasing, asked for by name because its default has changed between versions. PIL also rounds to
uint8 after each direction; here nothing is rounded, so resized pictures differ by up to 1.5 / 255 from PIL's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# OpenAI's CLIP; the models of LAION, ImageReward and HPSv2 use the same.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# What networks that were trained on ImageNet's pictures are used to, and DINO, DINOv2 and DINOv3.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def short_side_crop(
    images: Tensor, size: int, cropped: int | None = None, rounding: Callable[[float], int] = math.floor
) -> Tensor:
    """Resize the short side to `size` and cut the centre out: CLIP, PickScore, the aesthetic score, ImageReward, DINO.

    Values outside [0, 1] are clamped before the resizing, and what the bicubic filter overshoots after each direction,
    as PIL does. The gradient is that of this very function: zero where a value was clamped, and passed on at exactly 0
    and 1. A picture that has the size already is only clamped.

    Args:
        images: `(B, 3, H, W)`, floating point.
        size: Of the short side.
        cropped: Of both sides of the result, at most `size`; `None` is that.
        rounding: Of the margin that is cut off at the top and the left when half of it is not whole: `math.floor` as in
            transformers, `round` as in torchvision's `CenterCrop`.

    Returns:
        `(B, 3, cropped, cropped)` in [0, 1].
    """
    height, width = images.shape[-2:]
    short = min(height, width)
    widened = _resize(images.clamp(0, 1), height, size * width // short).clamp(0, 1)  # PIL begins with the rows
    resized = _resize(widened, size * height // short, size * width // short).clamp(0, 1)
    kept = size if cropped is None else cropped
    top, left = (rounding((side - kept) / 2) for side in resized.shape[-2:])
    return resized[..., top : top + kept, left : left + kept]


def long_side_pad(images: Tensor, size: int) -> Tensor:
    """Resize the long side to `size` and pad the short one with black on both sides: HPSv2.

    Overshoot of the bicubic filter is not clamped, because the published transform resizes a tensor too. Of an odd
    margin the larger part goes to the bottom and the right.

    Args:
        images: `(B, 3, H, W)`, floating point; values outside [0, 1] are clamped first and have no gradient.
        size: Of both sides of the result.

    Returns:
        `(B, 3, size, size)`.
    """
    scale = size / max(images.shape[-2:])
    height, width = (max(1, round(side * scale)) for side in images.shape[-2:])
    resized = _resize(images.clamp(0, 1), height, width)
    top, left = (size - height) // 2, (size - width) // 2
    return F.pad(resized, (left, size - width - left, top, size - height - top))


def normalise(images: Tensor, mean: Sequence[float] = CLIP_MEAN, std: Sequence[float] = CLIP_STD) -> Tensor:
    """Subtract the mean of each channel and divide by its standard deviation; `(B, 3, H, W)`."""
    centre, spread = (torch.tensor(v, dtype=images.dtype, device=images.device) for v in (mean, std))
    return (images - centre.view(3, 1, 1)) / spread.view(3, 1, 1)


def _resize(images: Tensor, height: int, width: int) -> Tensor:
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True, align_corners=False)
