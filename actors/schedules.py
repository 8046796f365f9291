"""Noise schedules: what a diffusers scheduler config says of the model's noise process, and which timesteps to visit.

A pipeline's scheduler config mixes two things: the process that the model was trained on (betas, prediction, spacing,
where the chain ends) and a solver. Only the first is read, with the defaults of the config's own class; the solver is
`policy.solver`. Of a class that is not listed here the process is another; `actors/flow_schedules.py` has flow
matching.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DDIMScheduler, SchedulerMixin
from torch import Tensor

from actors.noise_levels import NoiseLevels

VARIANCE_PRESERVING = (
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
_MOST_TIMESTEPS = 100_000  # 1,000 are usual; tables are made of them


def variance_preserving(scheduler: SchedulerMixin, steps: int, spacing: str | None = None) -> NoiseLevels:
    """The states of a chain of `steps` steps that a scheduler's config describes; signal^2 + sigma^2 = 1.

    Args:
        scheduler: Of one of the classes in `VARIANCE_PRESERVING`.
        steps: Number of denoising steps T.
        spacing: Instead of the scheduler's own: leading, trailing or linspace.

    Raises:
        ValueError: If it describes another process, or none.
    """
    check_scheduler(scheduler)
    visited = timesteps(scheduler, steps, spacing)
    table, end = alpha_bars(scheduler)
    alpha_bar = torch.cat([table[visited], end])
    return NoiseLevels(visited, alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), scheduler.config.prediction_type)


def read_scheduler(model: str, classes: Sequence[str] = VARIANCE_PRESERVING, **overrides: Any) -> SchedulerMixin:
    """The scheduler of a pipeline, a folder or a hub name, made by its own class.

    Args:
        model: The folder or name.
        classes: That it may be of.
        overrides: Values that are other than the config's, where its class takes them.

    Raises:
        ValueError: If there is none, its class is not one of `classes`, or does not take the values.
    """
    try:
        values = DDIMScheduler.load_config(model, subfolder="scheduler")  # the values alone, of whatever class
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"The model {model} has no scheduler/scheduler_config.json to read ({reason}).") from error
    if not isinstance(values, dict):
        raise ValueError(f"The model {model} has a scheduler/scheduler_config.json that holds no values by name.")
    total = values.get("num_train_timesteps", 1000)
    if type(total) is not int or not 0 < total <= _MOST_TIMESTEPS:
        raise ValueError(
            f"The model {model} has a scheduler whose num_train_timesteps is {str(total)[:40]}; it is a number from 1 "
            f"to {_MOST_TIMESTEPS:,}."
        )
    name: Any = values.get("_class_name")
    _check_class(model, name, classes)
    known = _parameters(getattr(diffusers, name))
    try:
        scheduler = getattr(diffusers, name).from_config(
            values, **{key: value for key, value in overrides.items() if key in known}
        )
    except Exception as error:  # whatever the constructor does with betas that are none
        reason = " ".join(str(error).split())
        raise ValueError(f"The model {model} has a {name} that cannot be made of its config ({reason}).") from error
    return scheduler


def check_scheduler(scheduler: SchedulerMixin) -> None:
    """Refuse a scheduler whose model cannot be sampled by Gaussian transitions.

    Raises:
        ValueError: If the class is another than `VARIANCE_PRESERVING`, if it clips its predictions (then no transition
            is Gaussian), or if the model predicts something else than noise or velocity.
    """
    name, config = type(scheduler).__name__, scheduler.config
    _check_class("of this scheduler", name, VARIANCE_PRESERVING)
    # A key that the class does not take is left over from another class and does nothing.
    clips = [key for key in ("clip_sample", "thresholding") if key in _parameters(type(scheduler)) and config[key]]
    if clips:
        raise ValueError(
            f"The {name} clips or thresholds the predicted image ({clips[0]} is true), so its transitions have no "
            f"density; set {clips[0]} to false in the model's scheduler/scheduler_config.json."
        )
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(
            f"The scheduler predicts {config.prediction_type!r} (prediction_type in the model's "
            "scheduler/scheduler_config.json); only epsilon and v_prediction are known."
        )
    if config.get("use_flow_sigmas", False):
        raise ValueError(f"The {name} has use_flow_sigmas, so the model is one of flow matching, which is not known.")


def timesteps(scheduler: SchedulerMixin, steps: int, spacing: str | None = None) -> Tensor:
    """Exactly `steps` training timesteps `(steps,)` int64, falling, within the scheduler's table.

    As diffusers spaces them (Lin et al., arXiv 2305.08891, table 2), where diffusers stays within the table: its
    trailing spacing counts one too many for some numbers of steps, and its leading one may begin beyond the end.
    `spacing` as in `variance_preserving`.

    Raises:
        ValueError: If there are more steps than training timesteps.
    """
    total = scheduler.config.num_train_timesteps
    spacing = spacing or scheduler.config.get("timestep_spacing", "linspace")
    if steps > total:
        raise ValueError(f"policy.steps is {steps}, but the model was trained on {total} timesteps; give at most that.")
    index = np.arange(steps)
    if spacing == "linspace":
        found = np.linspace(0, total - 1, steps).round()[::-1]
    elif spacing == "leading":
        rising = index * (total // steps)
        found = (rising + min(scheduler.config.get("steps_offset", 0), total - 1 - rising[-1]))[::-1]
    elif spacing == "trailing":
        found = np.round(total - index * total / steps) - 1
    else:
        raise ValueError(
            f"The scheduler's timestep_spacing is {spacing!r}, but there are only leading, trailing and linspace."
        )
    return torch.from_numpy(found.astype(np.int64))


def alpha_bars(scheduler: SchedulerMixin) -> tuple[Tensor, Tensor]:
    """Cumulative alphas `(N,)` float64 of the N training timesteps, and `(1,)` that of the chain's end.

    Raises:
        ValueError: If they are not finite, within [0, 1] and falling.
    """
    table = scheduler.alphas_cumprod.double().cpu().clone()
    if scheduler.config.get("rescale_betas_zero_snr", False):
        table[-1] = 0.0  # some classes put 2^-24 there, because they divide by it
    if not (table.isfinite().all() and (table.diff() <= 0).all() and table[0] <= 1 and table[-1] >= 0):
        raise ValueError(
            "The scheduler's betas give no noise schedule (alpha_bar must fall from at most 1 to at least 0); look at "
            "beta_start, beta_end and trained_betas in the model's scheduler/scheduler_config.json."
        )
    if len(table) != (total := scheduler.config.num_train_timesteps):
        raise ValueError(
            f"The scheduler has {len(table)} trained_betas for num_train_timesteps={total}; look at the model's "
            "scheduler/scheduler_config.json."
        )
    if hasattr(scheduler, "final_alpha_cumprod"):
        return table, scheduler.final_alpha_cumprod.double().cpu().reshape(1)
    ends_noisy = scheduler.config.get("final_sigmas_type", "zero") == "sigma_min" or type(scheduler).__name__ in (
        "DEISMultistepScheduler",
        "SASolverScheduler",
    )
    return table, table[:1] if ends_noisy else torch.ones(1, dtype=torch.float64)


def _check_class(model: str, name: str | None, classes: Sequence[str]) -> None:
    if name not in classes:
        raise ValueError(
            f"The model {model} has a scheduler of the class {name}, whose config describes no noise process that is "
            f"known of such a model; those of {', '.join(classes)} do."
        )


def _parameters(scheduler: type) -> set[str]:
    return set(inspect.signature(scheduler.__init__).parameters)  # type: ignore[misc]
