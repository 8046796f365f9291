"""The weighted sum of several rewards as one reward: what a gradient-informed objective climbs or samples from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from rewards.checked import Checked
from rewards.reward import Reward


class WeightedSum(Reward):
    """sum_i w_i r_i, each on its own scale: a running normalisation would move the target while it is sampled.

    Args:
        rewards: Each reward with its weight.
    """

    def __init__(self, rewards: Sequence[tuple[float, Reward]]) -> None:
        self._rewards = tuple((weight, Checked.of(reward)) for weight, reward in rewards)
        self.differentiable = all(reward.differentiable for _, reward in self._rewards)

    @classmethod
    def make(cls, rewards: Mapping[str, Callable[[], Reward]], weights: Mapping[str, float]) -> WeightedSum:
        """Build the rewards that have a weight.

        Args:
            rewards: Makes each reward, by name.
            weights: Of each reward by name.
        """
        return cls([(weight, Checked.make(name, rewards[name])) for name, weight in weights.items() if weight])

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.stack([weight * reward.score(images, prompts) for weight, reward in self._rewards]).sum(0)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = [(weight, *reward.score_and_grad(images, prompts)) for weight, reward in self._rewards]
        scores = torch.stack([weight * scores for weight, scores, _ in found]).sum(0)
        return scores, torch.stack([weight * gradient for weight, _, gradient in found]).sum(0)
