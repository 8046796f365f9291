"""How bright an image is, an example of a reward."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rewards.reward import Reward


class Brightness(Reward):
    """The mean of all pixels, 0 to 1."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.flatten(1).mean(dim=1)
