"""Agreement of picture and prompt in the embedded world, by its learned scorer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from rewards.reward import Reward
from shapes import SCORER
from shapes.scorer import Scorer, tokenize


class ShapesAgreement(Reward):
    """The world's small ImageReward; one unit is one logit of a Bradley-Terry comparison.

    Args:
        checkpoint: Folder of a `Scorer`.
    """

    differentiable = True

    def __init__(self, checkpoint: str | Path = SCORER) -> None:
        self._scorer = Scorer.from_pretrained(checkpoint).float().eval().requires_grad_(False)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._scorer(images, tokenize(prompts))

    def embed(self, images: Tensor) -> Tensor:
        return self._scorer.features(images)
