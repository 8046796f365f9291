"""The reward protocol: what every judge of images answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rewards.errors import RewardUnavailable as RewardUnavailable  # a part of the protocol
from rewards.errors import UnknownReward as UnknownReward

if TYPE_CHECKING:
    from rewards.canary import Canary


class Reward(ABC):
    """Scores images against prompts; higher is better.

    Images are `(B, 3, H, W)` float32 in [0, 1]. A reward keeps to its own device and moves what it is given.

    The driver reads the attributes without building the reward, so a module whose packages the driver does not have
    imports them in the constructor.

    Attributes:
        differentiable: Whether gradients flow from `score` into the images.
        features_only: Whether it has image features and no score: its scores are NaN, and its weight is 0.
        environment: Where the packages of this reward are, if not in the driver's own environment: see
            `rewards.environments.locate`.
        parameters: How many numbers its published networks have, float32, for the estimate of memory before a run.
    """

    differentiable: bool = False
    features_only: bool = False
    environment: str | None = None
    parameters: int = 0

    @classmethod
    def check_prompt(cls, prompt: str) -> None:
        """Refuse a prompt under which no image could be judged, before a run starts; the driver asks the class.

        Raises:
            ValueError: If so; the message goes on after the prompt, and has no full stop.
        """
        return  # most take every prompt

    @classmethod
    def canaries(cls, **options: Any) -> tuple[Canary, ...]:
        """Pictures whose score under these options is known; each actor is asked about them before a run starts."""
        return ()  # most have none of their own

    @abstractmethod
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores `(B,)` float32; NaN where a sample cannot be judged."""

    def score_at(self, images: Tensor, prompts: Sequence[str], times: Tensor) -> Tensor:
        """Scores `(B,)` of images that the noisy states of a chain are predicted to become.

        Args:
            images: `(B, 3, H, W)`.
            prompts: One an image.
            times: `(B,)` float32, training timesteps of the states, 0 of an image itself. A step-aware reward
                (`rewards.step_aware`) reads them; to others a predicted image is one like any.
        """
        return self.score(images, prompts)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Scores `(B,)` and d score / d image `(B, 3, H, W)`, float32 both.

        Raises:
            TypeError: If the reward has no gradient.
        """
        if not self.differentiable:
            raise TypeError(f"{type(self).__name__} has no gradient with respect to the image.")
        with torch.enable_grad():
            leaf = images.detach().float().requires_grad_()
            scores = self.score(leaf, prompts)
            (gradient,) = torch.autograd.grad(scores.sum(), leaf)
        return scores.detach(), gradient

    def embed(self, images: Tensor) -> Tensor:
        """Features `(B, D)` float32 in which distances between images mean something.

        Raises:
            TypeError: If the reward has none.
        """
        raise TypeError(f"{type(self).__name__} has no image features.")


@dataclass(frozen=True)
class Scores:
    """What the rewards of one actor say of B images."""

    names: tuple[str, ...]  # (R,)
    values: np.ndarray  # (R, B) float32, NaN where a sample could not be judged
    features: np.ndarray | None = None  # (B, D) float32, of the images
    failed: Mapping[str, str] = field(default_factory=dict)  # a sentence for each reward that raised
    candidates: Mapping[str, np.ndarray] = field(default_factory=dict)  # (B, K, M) float32 by reward, see `RewardActor`


def to_images(pixels: np.ndarray) -> Tensor:
    """`(B, H, W, 3)` uint8 as rollouts return them, to `(B, 3, H, W)` float32 in [0, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 255


def to_pixels(images: Tensor) -> np.ndarray:
    """`(B, 3, H, W)` in [0, 1] to `(B, H, W, 3)` uint8, rounded."""
    return (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
