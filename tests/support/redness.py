"""A reward that anybody can ask, with its gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Redness:
    """How red pictures are, in waves; see `learner.reward_gradient.RewardModel`."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.sin(3 * images[:, 0]).flatten(1).sum(dim=1)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        gradient = torch.zeros_like(images)
        gradient[:, 0] = 3 * torch.cos(3 * images[:, 0])
        return self.score(images, prompts), gradient
