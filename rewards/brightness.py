"""Brightness: the simplest smooth reward, of any model, to see what a method does with a gradient."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rewards.reward import Reward


class Brightness(Reward):
    """The mean of a picture over pixels and colours, in [0, 1]; its gradient is the same everywhere."""

    differentiable = True

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.float().mean(dim=(1, 2, 3))
