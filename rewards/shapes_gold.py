"""The embedded worlds' gold judge as a reward: to watch a run with, never to train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from rewards.canary import SHIPPED, Canary
from rewards.reward import Reward, to_pixels
from shapes.captions import parse
from shapes.judge import gold_score
from shapes.worlds import FIRST, WORLDS, World


class ShapesGold(Reward):
    """The share of the prompt's facts that a symbolic reading of the picture finds, in [0, 1].

    NaN for a prompt that is not of the world's grammar.

    Args:
        world: Name of the embedded world whose pictures it reads, `first` or `second`.

    Raises:
        ValueError: If there is no such world.
    """

    @classmethod
    def canaries(cls, world: str = FIRST.name, **options: Any) -> tuple[Canary, ...]:
        return (Canary(SHIPPED, "four blue stars", 1.0),) if world == FIRST.name else ()

    def __init__(self, world: str = FIRST.name) -> None:
        if world not in WORLDS:
            raise ValueError(f"There is no embedded world {world!r}; the worlds are {', '.join(WORLDS)}.")
        self._world = WORLDS[world]

    # Pixels, and coarse ones, because nobody learned them: a scorer's features are those that its reward is made of, so
    # samples that only look different to the scorer would count as diverse. A shift by a pixel or two is forgiven.
    def embed(self, images: Tensor) -> Tensor:
        """The picture on a grid of 8 x 8 `(B, 192)`: a distance is the root mean square of colour differences."""
        coarse = adaptive_avg_pool2d(images.float(), 8).flatten(1)
        return coarse / coarse.shape[1] ** 0.5

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        pairs = zip(to_pixels(images), prompts, strict=True)
        return torch.tensor([_score(image, prompt, self._world) for image, prompt in pairs])


def _score(image: np.ndarray, prompt: str, world: World) -> float:
    try:
        return gold_score(image, parse(prompt, world))
    except ValueError:
        return float("nan")
