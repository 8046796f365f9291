"""What a policy draws, as numbers: by our own chain, and by the diffusers pipeline that a folder names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from actors.policy import Policy
from actors.rollout import chain, noise
from actors.trajectories import Request

PROMPTS = ("a red circle", "two blue squares")


@torch.no_grad()
def pictures(policy: Policy, seed: int = 3) -> Tensor:
    """`(2, 3, H, W)` float32 of `PROMPTS` by a chain without noise."""
    request = Request(seed, 0, PROMPTS, (0, 1), (0, 0))
    x = noise(request.keys, 0, policy.latent_shape).to(policy.device)
    for step in chain(policy, x, policy.encode(PROMPTS), request.keys):
        x = step.x_next
    return policy.decode(x)


def plain_pictures(
    pipeline: Any, policy: Policy, seed: int = 3, pack: Callable[[Tensor], Tensor] | None = None, **call: Any
) -> Tensor:
    """The same by a pipeline of diffusers, which has nothing of ours but the noise that it starts from.

    Args:
        pipeline: With the scheduler that is to be used.
        policy: Whose steps, guidance and latents are taken.
        seed: Of the noise.
        pack: Turns our initial states into what the pipeline takes as latents.
        call: Other arguments of the pipeline.
    """
    request = Request(seed, 0, PROMPTS, (0, 1), (0, 0))
    start = noise(request.keys, 0, policy.latent_shape)
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        list(PROMPTS), num_inference_steps=policy.config.steps, guidance_scale=policy.config.guidance,
        latents=pack(start) if pack else start, output_type="pt", **call,
    )  # fmt: skip
    return found.images
