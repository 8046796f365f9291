"""Noise schedules of flow matching: x = (1 - sigma) x0 + sigma eps, and a network that predicts u = eps - x0.

A scheduler's config says how far its noise levels are shifted towards noise (`shift`, or by the size of the
picture, `use_dynamic_shifting`); from where to where they go before that is the pipeline's. diffusers' own scheduler
makes the list.
"""

from __future__ import annotations

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler

from actors.noise_levels import NoiseLevels

FLOW_MATCHING = ("FlowMatchEulerDiscreteScheduler",)


def flow_matching(
    scheduler: FlowMatchEulerDiscreteScheduler,
    steps: int,
    sigmas: np.ndarray | None = None,
    mu: float | None = None,
) -> NoiseLevels:
    """The states of a chain of `steps` steps, which ends at the image; timesteps are 1000 sigma, float32.

    Args:
        scheduler: Is told the number of steps.
        steps: Number of denoising steps T.
        sigmas: `(T,)` before they are shifted; `None`: evenly spaced between the scheduler's own, shifted ends.
        mu: Of dynamic shifting; `None` where it is not used.

    Raises:
        ValueError: If the scheduler makes no falling list of them.
    """
    scheduler.set_timesteps(num_inference_steps=steps, sigmas=None if sigmas is None else sigmas.tolist(), mu=mu)
    sigma = scheduler.sigmas.double().cpu()
    if not (len(sigma) == steps + 1 and sigma[0] <= 1 and sigma[-1] == 0 and (sigma.diff() < 0).all()):
        raise ValueError(
            "The scheduler's noise levels do not fall from at most 1 to 0; look at shift, invert_sigmas and "
            "shift_terminal in the model's scheduler/scheduler_config.json, and at policy.shift."
        )
    timesteps = scheduler.timesteps.float().cpu().clone()
    return NoiseLevels(timesteps, 1 - sigma, sigma, "velocity")
