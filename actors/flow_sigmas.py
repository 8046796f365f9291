"""Flow matching as a solver's scheduler describes it: a config with `use_flow_sigmas` instead of a class of its own.

States and network are those of `actors/flow_schedules.py`, x = (1 - sigma) x0 + sigma eps and u = eps - x0. The levels
are spaced evenly from just below pure noise and then shifted, and the network is told whole numbers, 1000 sigma rounded
down. Pipelines that were made for diffusion drive flow models by such a config: `StableDiffusionPipeline` asks a
scheduler for what `FlowMatchEulerDiscreteScheduler` does not have.
"""

from __future__ import annotations

from diffusers import SchedulerMixin

from actors.config import PolicyConfig
from actors.noise_levels import NoiseLevels


def flow_sigmas(scheduler: SchedulerMixin, config: PolicyConfig) -> NoiseLevels:
    """The states of a chain of `config.steps` steps, which ends at the image; timesteps are int64.

    Args:
        scheduler: With `use_flow_sigmas`; of its solver nothing is read.
        config: `shift` takes the place of the scheduler's `flow_shift`.

    Raises:
        ValueError: If the scheduler describes another process, or if the config asks for a spacing.
    """
    name = type(scheduler).__name__
    if scheduler.config.prediction_type != "flow_prediction" or scheduler.config.get("thresholding", False):
        raise ValueError(
            f"The {name} has use_flow_sigmas, but its prediction_type is {scheduler.config.prediction_type!r} and "
            f"thresholding {scheduler.config.get('thresholding', False)}, which give no flow matching with a density; "
            "set them to flow_prediction and false in the model's scheduler/scheduler_config.json."
        )
    if config.spacing is not None:
        raise ValueError(
            f"policy.spacing={config.spacing} chooses among the timesteps of diffusion, but the model is one of flow "
            "matching; leave it null, and set policy.shift to spend more steps on the noise."
        )
    if config.shift is not None:
        scheduler = type(scheduler).from_config(scheduler.config, flow_shift=config.shift)
    scheduler.set_timesteps(config.steps)
    sigma = scheduler.sigmas.double().cpu()
    if not (len(sigma) == config.steps + 1 and sigma[0] <= 1 and sigma[-1] == 0 and (sigma.diff() < 0).all()):
        raise ValueError(
            f"The {name}'s noise levels do not fall from at most 1 to 0; look at flow_shift, final_sigmas_type and the "
            "other use_..._sigmas in the model's scheduler/scheduler_config.json, and at policy.shift."
        )
    return NoiseLevels(scheduler.timesteps.cpu().clone(), 1 - sigma, sigma, "velocity")
