"""The reward actor: holds the rewards of one environment and scores images out of the object store."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from rewards.checked import Checked
from rewards.errors import RewardFailed
from rewards.missing import score_those_there
from rewards.reward import Reward, Scores, to_images
from rewards.weighted import WeightedSum


class RewardActor:
    """Scores images under several rewards; made a Ray actor by `cluster.crew`.

    Args:
        rewards: Makes each reward, by name: here, because only here are its packages.

    Raises:
        UnknownReward: If there is no such reward.
        RewardUnavailable: If one cannot be built.
    """

    def __init__(self, rewards: Mapping[str, Callable[[], Reward]]) -> None:
        self._rewards = {name: Checked.make(name, make) for name, make in rewards.items()}

    def ready(self) -> None:
        """Answers once the models are loaded."""

    @torch.no_grad()
    def score(
        self, pixels: np.ndarray, prompts: Sequence[str], features: str | None = None, strict: bool = False
    ) -> Scores:
        """Score images under every reward.

        A reward that cannot judge an image says NaN; one that raises says nothing of all of them, and does not keep the
        others from answering.

        Args:
            pixels: `(B, H, W, 3)` uint8; pictures that are masked are not there, and their scores are NaN.
            prompts: One an image.
            features: Also return the image features of this reward.
            strict: Take no scores but `(B,)`, as before a run; during one, what can be read is.

        Raises:
            RewardUnavailable: If a reward is gone for good, or answers with something else than scores.
            TypeError: If the reward has no image features.
        """
        if np.ma.is_masked(pixels):
            return score_those_there(partial(self.score, features=features), tuple(self._rewards), pixels, prompts)
        images = to_images(pixels)
        values, failed = np.full((len(self._rewards), len(images)), np.nan, np.float32), {}
        for row, (name, reward) in zip(values, self._rewards.items(), strict=True):
            try:
                own = images.clone()  # to do with as it likes
                row[:] = reward.score(own, prompts, strict).detach().cpu().numpy()
            except RewardFailed as error:
                failed[name] = str(error)
        embedding = None
        if features is not None:
            try:
                embedding = self._rewards[features].embed(images).detach().cpu().numpy()
            except RewardFailed as error:
                failed[features] = str(error)
        return Scores(tuple(self._rewards), values, embedding, failed)

    @torch.no_grad()
    def answer(self, pixels: np.ndarray, prompts: Sequence[str], name: str, features: bool = False) -> np.ndarray:
        """What one reward says of images: scores `(B,)`, or its image features `(B, D)`, float32 both.

        Args:
            pixels: `(B, H, W, 3)` uint8.
            prompts: One an image.
            name: Of the reward.
            features: Whether they are asked for, and not scores.

        Raises:
            RewardUnavailable: If it is gone for good, or answers with something else.
            RewardFailed: If it raises.
            TypeError: If it has no image features.
        """
        reward, images = self._rewards[name], to_images(pixels)
        answer = reward.embed(images) if features else reward.score(images, prompts)
        return answer.detach().float().cpu().numpy()

    def weighted_sum(
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

        Raises:
            RewardUnavailable: If a reward is gone for good, or its answer is none.
            RewardFailed: If one raises.
        """
        reward = WeightedSum([(weight, self._rewards[name]) for name, weight in weights.items() if weight])
        pixels = torch.from_numpy(np.array(images))
        if not gradient:
            with torch.no_grad():
                return reward.score(pixels, prompts).detach().cpu().numpy(), None
        scores, gradients = reward.score_and_grad(pixels, prompts)
        return scores.cpu().numpy(), gradients.cpu().numpy()
