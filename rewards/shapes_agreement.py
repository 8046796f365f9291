"""Agreement of picture and prompt in an embedded world, by its learned scorer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rewards.canary import SHIPPED, Canary
from rewards.reward import Reward
from shapes import SCORERS
from shapes.scorer import Scorer


class ShapesAgreement(Reward):
    """The world's small ImageReward; one unit is one logit of a Bradley-Terry comparison.

    Args:
        checkpoint: Folder of a `Scorer`; `first` and `second` are those of the embedded worlds.
    """

    differentiable = True

    @classmethod
    def canaries(cls, checkpoint: str | Path = "first", **options: Any) -> tuple[Canary, ...]:
        return (Canary(SHIPPED, "four blue stars", 2.714),) if str(checkpoint) == "first" else ()

    def __init__(self, checkpoint: str | Path = "first") -> None:
        folder = SCORERS.get(str(checkpoint), checkpoint)
        self._scorer = Scorer.from_pretrained(folder).float().eval().requires_grad_(False)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._scorer(images, self._scorer.tokenize(prompts))

    def embed(self, images: Tensor) -> Tensor:
        return self._scorer.features(images)
