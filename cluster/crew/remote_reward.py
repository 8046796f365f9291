"""Reward actors as a reward model of the learner: for rewards that live in environments or on GPUs of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError
from torch import Tensor

from rewards.errors import RewardFailed, RewardUnavailable

_RETRIES = 10  # of a call whose actor was lost; Ray brings the actor back first


class RemoteReward:
    """The weighted sum of rewards, computed by reward actors; each pool shares the images of a call out among its own.

    Args:
        pools: Reward actors, by the names of the rewards that each of them holds.
        weights: Of each reward by name; a pool without any is not asked.
    """

    def __init__(self, pools: Mapping[tuple[str, ...], Sequence[ActorHandle]], weights: Mapping[str, float]) -> None:
        weighted = [({name: weights[name] for name in names if weights[name]}, pools[names]) for names in pools]
        self._pools = [(own, tuple(actors)) for own, actors in weighted if own]

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores `(B,)` float32."""
        return self._ask(images, prompts, gradient=False)[0]

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Scores `(B,)` and d score / d image `(B, 3, H, W)`, float32.

        Raises:
            RewardUnavailable: If a reward is gone for good, or its answer is none.
            RewardFailed: If one raises.
        """
        scores, gradients = self._ask(images, prompts, gradient=True)
        assert gradients is not None
        return scores, gradients

    def _ask(self, images: Tensor, prompts: Sequence[str], gradient: bool) -> tuple[Tensor, Tensor | None]:
        pixels = images.detach().float().cpu().numpy()
        asked = []  # of every pool, before the answer of any is waited for
        for weights, actors in self._pools:
            shares = np.array_split(np.arange(len(pixels)), min(len(actors), len(pixels)))
            asked.append(
                [
                    actor.weighted_sum.options(max_task_retries=_RETRIES).remote(
                        pixels[share], [prompts[i] for i in share], weights, gradient
                    )
                    for actor, share in zip(actors, shares, strict=False)
                ]
            )
        try:
            answers = [list(zip(*ray.get(calls), strict=True)) for calls in asked]
        except RayTaskError as error:
            if isinstance(error.cause, RewardUnavailable | RewardFailed):
                raise error.cause from None  # its sentence, for whoever asks from within an actor
            raise
        # Arrays out of the object store are read-only; concatenate and sum copy.
        scores = np.sum([np.concatenate(scores) for scores, _ in answers], axis=0)
        if not gradient:
            return torch.from_numpy(scores), None
        return torch.from_numpy(scores), torch.from_numpy(np.sum([np.concatenate(g) for _, g in answers], axis=0))
