"""Rolls out denoising trajectories: a pure function of the policy's weights and the request.

Noise is counter-based (Philox): the key is (run seed, iteration), the counter (prompt, sample, step). A rollout
therefore does not depend on which process ran it, in what order, or on which attempt.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from actors.policy import Policy
from actors.trajectories import Request, Trajectories
from actors.transitions import log_prob


def noise(request: Request, step: int, shape: tuple[int, ...]) -> Tensor:
    """Standard normal noise `(B, *shape)` float32 of a request at one point of its chain.

    Args:
        request: Whose samples.
        step: 0 for the initial state x_T, j + 1 for the noise that sampler step j adds.
        shape: Of a state.
    """
    draws = [
        np.random.Generator(
            np.random.Philox(
                key=np.array([request.seed, request.iteration], np.uint64),
                counter=np.array([0, step, sample, prompt], np.uint64),
            )
        ).standard_normal(shape, np.float32)
        for prompt, sample in zip(
            request.prompt_index,
            (0,) * len(request.prompts) if step == 0 and request.share_init_noise else request.sample_index,
            strict=True,
        )
    ]
    return torch.from_numpy(np.stack(draws))


@torch.no_grad()
def rollout(policy: Policy, request: Request, version: int = 0) -> tuple[np.ndarray, Trajectories]:
    """Sample a request's images and keep the transitions that it asks for.

    Args:
        policy: The behaviour policy, with the weights that `version` names.
        request: What to sample.
        version: Stamped on the trajectories.

    Returns:
        The images `(B, H, W, 3)` uint8, and the trajectories. If a picture, or a number on the way to it, is not
        finite, the images are a masked array in which that picture is masked: there is nothing to be judged.
    """
    transitions, shape = policy.transitions, policy.latent_shape
    conditioning = policy.encode(request.prompts)
    x = noise(request, 0, shape).to(policy.device)
    latents, next_latents, log_probs = [], [], []
    for step in range(len(transitions)):
        index = torch.full((len(x),), step)
        mean = transitions.mean(x, policy.predict(x, index, conditioning), index)
        std = transitions.std_at(index, x)
        x_next = mean + std * noise(request, step + 1, shape).to(policy.device)
        if step in request.stored_steps:
            latents.append(x)
            next_latents.append(x_next)
            log_probs.append(log_prob(x_next, mean, std))
        x = x_next
    images = policy.decode(x)
    finite = torch.stack([_finite(part) for part in (images, x, *latents, *next_latents, *log_probs)]).all(dim=0)
    pixels = (images.nan_to_num() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return _mask(pixels, finite.cpu().numpy()), Trajectories(
        latents=_stack(latents, (len(x), 0, *shape)),
        next_latents=_stack(next_latents, (len(x), 0, *shape)),
        log_probs=_stack(log_probs, (len(x), 0)),
        steps=np.array(request.stored_steps, np.int64),
        prompts=request.prompts,
        prompt_index=np.array(request.prompt_index, np.int64),
        version=version,
    )


def _finite(values: Tensor) -> Tensor:
    """Which samples `(B,)` have no NaN or infinite number in values `(B, ...)`."""
    return values.flatten(1).isfinite().all(dim=1) if values.dim() > 1 else values.isfinite()


def _mask(pixels: np.ndarray, there: np.ndarray) -> np.ndarray:
    if there.all():
        return pixels
    return np.ma.masked_array(pixels, np.broadcast_to(~there[:, None, None, None], pixels.shape))


def _stack(parts: list[Tensor], empty: tuple[int, ...]) -> np.ndarray:
    return torch.stack(parts, dim=1).cpu().numpy() if parts else np.empty(empty, np.float32)
