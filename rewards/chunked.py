"""A reward on a large model: images go through it a few at a time, with or without gradients."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from rewards.reward import Reward


class ChunkedReward(Reward):
    """A reward whose `score_chunk` sees at most `batch_size` images, which bounds the memory that a gradient takes.

    Args:
        batch_size: Images that go through the model at once.
        device: Such as `cpu` or `cuda`; `auto` takes a GPU if there is one.
    """

    def __init__(self, batch_size: int, device: str) -> None:
        self._batch_size = batch_size
        self.device = torch.device(
            "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
        )

    @abstractmethod
    def score_chunk(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores `(B,)` of at most `batch_size` images `(B, 3, H, W)` on the model's device."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = [self.score_chunk(part.to(self.device), words) for part, words in self._parts(images, prompts)]
        return torch.cat(scores).float().to(images.device)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = [super(ChunkedReward, self).score_and_grad(*part) for part in self._parts(images, prompts)]
        scores, gradients = zip(*found, strict=True)
        return torch.cat(scores), torch.cat(gradients)

    def _parts(self, images: Tensor, prompts: Sequence[str]) -> Iterator[tuple[Tensor, Sequence[str]]]:
        for start in range(0, len(images), self._batch_size):
            part = slice(start, start + self._batch_size)
            yield images[part], prompts[part]
