"""The reward as seen from inside the chain: what the predicted image of a noisy state is worth, and its gradient.

The reward model answers for images; the way back through decoder and denoiser to the state is taken here,
where the policy is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from actors.transitions import over


class RewardModel(Protocol):
    """A reward of images `(B, 3, H, W)` float32 in [0, 1]; every `rewards.reward.Reward` is one."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores `(B,)` float32; NaN where an image cannot be judged."""
        ...

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Scores `(B,)` and d score / d image `(B, 3, H, W)`, float32."""
        ...


def reward_gradient(
    reward: RewardModel, images: Tensor, state: Tensor, prompts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """d r(images) / d state `(B, ...)` float32, detached: no second order.

    Args:
        reward: Judges the images.
        images: `(B, 3, H, W)`, a differentiable function of `state`.
        state: The leaf to go back to.
        prompts: One an image. They must be those of these images; public code has got this wrong.

    Returns:
        The gradient, and which samples `(B,)` bool the reward could judge; the gradient of the others is zero.
    """
    scores, of_images = reward.score_and_grad(images.detach(), prompts)
    of_images, judged = of_images.to(images.device), scores.isfinite().to(images.device)
    judged &= of_images.flatten(1).isfinite().all(dim=1)
    of_images = torch.where(over(judged, of_images), of_images, 0.0)
    (gradient,) = torch.autograd.grad(images, state, of_images)
    # Zero times what is not finite would not be zero.
    return torch.where(over(judged, gradient), gradient.float(), 0.0), judged
