"""Reward actors as a reward model of the learner: for rewards that live in an environment or on a GPU of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import ray
import torch
from ray.actor import ActorHandle
from torch import Tensor

_RETRIES = 10  # of a call whose actor was lost; Ray brings the actor back first


class RemoteReward:
    """The weighted sum of rewards, computed by reward actors; the images of a call are shared out among them.

    Args:
        actors: Reward actors, each of which holds every reward.
        weights: Of each reward by name.
    """

    def __init__(self, actors: Sequence[ActorHandle], weights: Mapping[str, float]) -> None:
        self._actors, self._weights = tuple(actors), dict(weights)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores `(B,)` float32."""
        return self._ask(images, prompts, gradient=False)[0]

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Scores `(B,)` and d score / d image `(B, 3, H, W)`, float32."""
        scores, gradients = self._ask(images, prompts, gradient=True)
        assert gradients is not None
        return scores, gradients

    def _ask(self, images: Tensor, prompts: Sequence[str], gradient: bool) -> tuple[Tensor, Tensor | None]:
        pixels = images.detach().float().cpu().numpy()
        shares = np.array_split(np.arange(len(pixels)), min(len(self._actors), len(pixels)))
        answers: list[tuple[np.ndarray, np.ndarray]] = ray.get(
            [
                actor.judge.options(max_task_retries=_RETRIES).remote(
                    pixels[share], [prompts[i] for i in share], self._weights, gradient
                )
                for actor, share in zip(self._actors, shares, strict=False)
            ]
        )
        scores, gradients = zip(*answers, strict=True)
        # Arrays out of the object store are read-only, and concatenate copies.
        joined = torch.from_numpy(np.concatenate(gradients)) if gradient else None
        return torch.from_numpy(np.concatenate(scores)), joined
