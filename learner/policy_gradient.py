"""The clipped surrogate of policy gradients (PPO, Schulman et al., arXiv 1707.06347, eq. 7)."""

from __future__ import annotations

import torch
from torch import Tensor


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, clip_range: float) -> tuple[Tensor, Tensor]:
    """max(-A rho, -A clip(rho, 1 - eps, 1 + eps)), elementwise, and where the clip took the gradient (0 or 1).

    Args:
        log_ratio: log rho, any shape.
        advantage: A, broadcasts against it.
        clip_range: eps.
    """
    ratio = log_ratio.exp()
    raw, clipped = -advantage * ratio, -advantage * ratio.clamp(1 - clip_range, 1 + clip_range)
    return torch.maximum(raw, clipped), (clipped > raw).detach().float()


def ratio_metrics(log_ratio: Tensor, clipped: Tensor, items: int) -> dict[str, Tensor]:
    """What is logged of ratios, as shares of a mean over `items`: how far they are from 1, and how many are clipped."""
    return {
        "kl/behaviour": 0.5 * log_ratio.detach().square().sum() / items,
        "clip/share": clipped.sum() / items,
    }
