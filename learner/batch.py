"""What an objective trains on: one iteration's trajectories, joined, with a reward for each sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from actors.trajectories import Trajectories


@dataclass(frozen=True)
class Batch:
    """B samples with K stored transitions each; samples of one prompt share a group."""

    latents: Tensor  # (B, K, C, H, W) float32, x_t
    next_latents: Tensor  # (B, K, C, H, W) float32, the sampled x_next
    log_probs: Tensor  # (B, K) float32, behaviour policy, nats per dimension
    steps: Tensor  # (K,) int64, sampler step of each transition
    prompts: tuple[str, ...]  # (B,)
    groups: Tensor  # (B,) int64
    rewards: Tensor  # (B,) float32, NaN where the sample was dropped
    version: int  # the oldest weights that acted


def join(trajectories: Sequence[Trajectories], rewards: np.ndarray) -> Batch:
    """Join rollouts in the order given; arrays from the object store are copied on the way.

    Args:
        trajectories: Rollouts that stored the same sampler steps.
        rewards: `(B,)` over all of their samples.

    Raises:
        ValueError: If the rollouts stored different steps, or there is not one reward a sample.
    """
    first = trajectories[0]
    if any(not np.array_equal(t.steps, first.steps) for t in trajectories):
        raise ValueError("Rollouts of one batch must have stored the same sampler steps.")
    prompts = tuple(prompt for t in trajectories for prompt in t.prompts)
    if len(prompts) != len(rewards):
        raise ValueError(f"There are {len(prompts)} samples and {len(rewards)} rewards.")

    def gather(field: str) -> Tensor:
        return torch.from_numpy(np.concatenate([getattr(t, field) for t in trajectories]))

    return Batch(
        latents=gather("latents"),
        next_latents=gather("next_latents"),
        log_probs=gather("log_probs"),
        steps=torch.from_numpy(np.array(first.steps)),
        prompts=prompts,
        groups=gather("prompt_index"),
        rewards=torch.from_numpy(np.array(rewards, np.float32)),
        version=min(t.version for t in trajectories),
    )
