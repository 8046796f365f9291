"""Given pictures in the place of sampled ones: cut, resized and encoded, as trajectories that consist of their end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from actors.policy import Policy
from actors.rollout import fit
from actors.trajectories import Request, Trajectories

# Reads pictures where they are encoded. It is given what says of prompts whether the model reads each to its end, and
# returns a request whose samples begin, and end, with the pictures in `start`; and whatever its driver wants to know.
Read = Callable[[Callable[[Sequence[str]], Sequence[bool]]], tuple[Request, Mapping[str, Any]]]


@torch.no_grad()
def encode(policy: Policy, request: Request, version: int = 0) -> tuple[np.ndarray, Trajectories]:
    """Encode the pictures of a request; the adapter takes no part.

    Args:
        policy: Whose autoencoder.
        request: With a picture for each of its samples in `start`; none are as good.
        version: Stamped on the trajectories.

    Returns:
        The pictures `(B, H, W, 3)` uint8, the largest middle part of each, resized to the policy's; and trajectories of
        no transitions (K is 0) whose `clean` are the pictures' latents, with the keys of the request.
    """
    (height, width), samples = policy.picture_size, len(request.prompts)
    pixels = np.empty((samples, height, width, 3), np.uint8)
    for row, image in enumerate(request.start or ()):
        pixels[row] = fit(image, (height, width))
    images = torch.from_numpy(pixels).to(policy.device).permute(0, 3, 1, 2) / 255
    clean = policy.encode_images(images).cpu().numpy() if samples else np.empty((0, *policy.latent_shape), np.float32)
    nothing = np.empty((samples, 0, *policy.latent_shape), np.float32)
    return pixels, Trajectories(
        latents=nothing,
        next_latents=nothing,
        log_probs=np.empty((samples, 0), np.float32),
        steps=np.empty(0, np.int64),
        prompts=request.prompts,
        prompt_index=np.array(request.prompt_index, np.int64),
        version=version,
        keys=request.keys,
        clean=clean,
    )
