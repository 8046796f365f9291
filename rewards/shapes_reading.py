"""What a small network of its own reads in an embedded world's pictures: to watch a run with, and to measure by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rewards.canary import SHIPPED, Canary
from rewards.reward import Reward
from shapes import READERS
from shapes.captions import Caption, parse
from shapes.reader import Reader
from shapes.worlds import FIRST


class ShapesReading(Reward):
    """The mean probability of the things, and of the background, that the prompt asks for, in [0, 1].

    How many there are and where is not read. NaN for a prompt that is not of the world's grammar.

    Args:
        world: Name of the embedded world whose pictures it reads, `first` or `second`.

    Raises:
        ValueError: If there is no such world.
    """

    @classmethod
    def canaries(cls, world: str = FIRST.name, **options: Any) -> tuple[Canary, ...]:
        return (Canary(SHIPPED, "four blue stars", 0.633),) if world == FIRST.name else ()

    def __init__(self, world: str = FIRST.name) -> None:
        if world not in READERS:
            raise ValueError(f"There is no embedded world {world!r}; the worlds are {', '.join(READERS)}.")
        self._reader = Reader.from_pretrained(READERS[world]).float().eval().requires_grad_(False)

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors `(B, 128)`: what is seen in each quarter of the picture, the background included."""
        return self._reader.features(images.float())

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        found, stands = self._reader(images.float())
        things, grounds = found.sigmoid(), stands.softmax(dim=1)
        scores = torch.full((len(images),), torch.nan)
        for i, prompt in enumerate(prompts):
            if (caption := self._parse(prompt)) is not None:
                asked, ground = self._reader.facts(caption)
                scores[i] = torch.cat([things[i, asked], grounds[i, ground]]).mean()
        return scores

    def _parse(self, prompt: str) -> Caption | None:
        try:
            return parse(prompt, self._reader.world)
        except ValueError:
            return None
