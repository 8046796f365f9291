"""A reward of curved slope, for tests of what goes back through it and of what it cannot judge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Curved:
    """A reward whose gradient depends on the image; what it cannot judge is named by number."""

    def __init__(self, *unjudged: int) -> None:
        self.unjudged = list(unjudged)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.sin(3 * images).flatten(1).sum(dim=1)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        gradient = 3 * torch.cos(3 * images)
        gradient[self.unjudged, 0, 0, 0] = torch.nan
        return self.score(images, prompts), gradient
