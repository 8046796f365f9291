"""The embedded world's gold judge as a reward: to watch a run with, never to train on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rewards.reward import Reward, to_pixels
from shapes.captions import parse
from shapes.judge import gold_score


class ShapesGold(Reward):
    """The share of the prompt's facts that a symbolic reading of the picture finds, in [0, 1].

    NaN for a prompt that is not of the world's grammar.
    """

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([_score(image, p) for image, p in zip(to_pixels(images), prompts, strict=True)])


def _score(image: np.ndarray, prompt: str) -> float:
    try:
        return gold_score(image, parse(prompt))
    except ValueError:
        return float("nan")
