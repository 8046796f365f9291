"""The reward actor: holds the rewards of one environment and scores images out of the object store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from rewards.reward import Reward, Scores, to_images
from rewards.weighted import WeightedSum


class RewardActor:
    """Scores images under several rewards; made a Ray actor by `cluster.crew`.

    Args:
        rewards: Makes each reward, by name: here, because only here are its packages.
    """

    def __init__(self, rewards: Mapping[str, Callable[[], Reward]]) -> None:
        self._rewards = {name: make() for name, make in rewards.items()}

    def ready(self) -> None:
        """Answers once the models are loaded."""

    @torch.no_grad()
    def score(self, pixels: np.ndarray, prompts: Sequence[str], features: str | None = None) -> Scores:
        """Score images under every reward.

        A reward that cannot judge an image says NaN; one that raises ends the call, for the loop to count.

        Args:
            pixels: `(B, H, W, 3)` uint8.
            prompts: One an image.
            features: Also return the image features of this reward.
        """
        images = to_images(pixels)
        values = [reward.score(images, prompts).float().cpu().numpy() for reward in self._rewards.values()]
        embedding = None if features is None else self._rewards[features].embed(images).float().cpu().numpy()
        return Scores(tuple(self._rewards), np.stack(values), embedding)

    def judge(
        self, images: np.ndarray, prompts: Sequence[str], weights: Mapping[str, float], gradient: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """The weighted sum of the rewards, each on its own scale, and its gradient where that is asked for.

        Args:
            images: `(B, 3, H, W)` float32 in [0, 1].
            prompts: One an image.
            weights: Of each reward by name.
            gradient: Whether to differentiate.

        Returns:
            Scores `(B,)` and d score / d image `(B, 3, H, W)`, float32.
        """
        reward = WeightedSum([(weight, self._rewards[name]) for name, weight in weights.items() if weight])
        pixels = torch.from_numpy(np.array(images))
        if not gradient:
            with torch.no_grad():
                return reward.score(pixels, prompts).float().cpu().numpy(), None
        scores, gradients = reward.score_and_grad(pixels, prompts)
        return scores.float().cpu().numpy(), gradients.float().cpu().numpy()
