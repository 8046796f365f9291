"""How nice a picture of an embedded world is to a made-up person, whatever the prompt: a smooth learned score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rewards.canary import SHIPPED, Canary
from rewards.reward import Reward
from shapes import AESTHETIC
from shapes.aesthetic import Aesthetic


class ShapesAesthetic(Reward):
    """The worlds' small LAION predictor; one unit is one logit of a choice between two pictures.

    Args:
        checkpoint: Folder of an `Aesthetic`; the shipped one is of both worlds.
    """

    differentiable = True

    @classmethod
    def canaries(cls, checkpoint: str | Path = AESTHETIC, **options: Any) -> tuple[Canary, ...]:
        return (Canary(SHIPPED, "four blue stars", 0.313),) if checkpoint == AESTHETIC else ()

    def __init__(self, checkpoint: str | Path = AESTHETIC) -> None:
        self._network = Aesthetic.from_pretrained(checkpoint).float().eval().requires_grad_(False)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._network(images.float())
