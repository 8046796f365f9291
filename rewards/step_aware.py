"""What rewards have in common that are told of which state of a chain a picture is predicted: step-aware ones.

Trained by `rewards.fit_steps`, asked by the objective `spo`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from rewards.reward import Reward


class StepAware(Reward):
    """A reward of predicted images.

    Attributes:
        network: What is trained.
    """

    differentiable = True
    network: nn.Module

    @abstractmethod
    def score_at(self, images: Tensor, prompts: Sequence[str], times: Tensor) -> Tensor:
        """See `Reward.score_at`; gradients flow into the images, and into parameters that have some."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score_at(images, prompts, torch.zeros(len(images)))

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what the option `checkpoint` takes.

        Raises:
            OSError: If it cannot be written.
        """
