"""Noise schedules of flow matching: x = (1 - sigma) x0 + sigma eps, and a network that predicts u = eps - x0.

A scheduler's config says how far its noise levels are shifted towards noise: by a number, `shift`, or by one that
grows with the picture, `use_dynamic_shifting`. Shifting by s makes s sigma / (1 + (s - 1) sigma) of sigma (Esser et
al., arXiv 2403.03206, eq. 23). From where to where the levels go before that is the pipeline's: Stable Diffusion 3's
between the scheduler's own ends, which are shifted already, so that they are shifted twice; FLUX's from 1 to 1 / T.
diffusers' own scheduler makes the list, so a chain sees the same levels as the pipeline.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from actors.config import PolicyConfig
from actors.noise_levels import NoiseLevels
from actors.schedules import read_scheduler

_ROUNDING = 1e-6  # of what float32 makes of a shifted 1
FLOW_MATCHING = ("FlowMatchEulerDiscreteScheduler",)


def read_flow_scheduler(folder: Path, config: PolicyConfig) -> FlowMatchEulerDiscreteScheduler:
    """The scheduler of a flow model's folder, shifted by `policy.shift` where that is given.

    Dynamic shifting by mu is shifting by e^mu, so a number takes its place; the ends of the scheduler's own list are
    shifted by the number too.

    Raises:
        ValueError: If it describes another process, or if the config asks for a spacing.
    """
    if config.spacing is not None:
        raise ValueError(
            f"policy.spacing={config.spacing} chooses among training timesteps, but a flow model has a continuous time "
            "that its pipeline spaces evenly; leave it null, and set policy.shift to spend more steps on the noise."
        )
    shifted = {} if config.shift is None else {"shift": config.shift, "use_dynamic_shifting": False}
    scheduler: FlowMatchEulerDiscreteScheduler = read_scheduler(str(folder), FLOW_MATCHING, **shifted)
    return scheduler


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
        mu: Of dynamic shifting; not looked at where it is not used.

    Raises:
        ValueError: If the scheduler makes no falling list of them.
    """
    scheduler.set_timesteps(num_inference_steps=steps, sigmas=None if sigmas is None else sigmas.tolist(), mu=mu)
    sigma = scheduler.sigmas.double().cpu()
    if abs(sigma[0] - 1) < _ROUNDING:
        sigma[0] = 1
    if not (len(sigma) == steps + 1 and sigma[0] <= 1 and sigma[-1] == 0 and (sigma.diff() < 0).all()):
        raise ValueError(
            "The scheduler's noise levels do not fall from at most 1 to 0; look at shift, invert_sigmas and "
            "shift_terminal in the model's scheduler/scheduler_config.json, and at policy.shift."
        )
    timesteps = scheduler.timesteps.float().cpu().clone()
    return NoiseLevels(timesteps, 1 - sigma, sigma, "velocity")


def even_sigmas(steps: int) -> np.ndarray:
    """FLUX's noise levels `(T,)` before they are shifted: evenly spaced from 1 to 1 / T."""
    return np.linspace(1.0, 1 / steps, steps)


def dynamic_mu(scheduler: FlowMatchEulerDiscreteScheduler, tokens: int, most: float) -> float:
    """The mu of dynamic shifting for a picture of so many tokens: linear in their number.

    Args:
        scheduler: Whose config says at which numbers of tokens it is how much.
        tokens: Of the picture, as the network sees it.
        most: The `max_shift` of a config that says none.
    """
    said = scheduler.config
    mu: float = calculate_shift(
        tokens,
        said.get("base_image_seq_len", 256),
        said.get("max_image_seq_len", 4096),
        said.get("base_shift", 0.5),
        said.get("max_shift", most),
    )
    return mu
