"""Scheduler configs: which are read, with whose defaults, and the timesteps that they give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given
from hypothesis import strategies as st

from actors.schedules import VARIANCE_PRESERVING, read_scheduler, timesteps, variance_preserving
from actors.transitions import Transitions, make_transitions

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def write(folder: Path, name: str, **values: Any) -> str:
    """A folder whose scheduler config says that and nothing else."""
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name, **values}))
    return str(folder)


def chain_of(folder: str, steps: int) -> Transitions:
    """The chain of a folder of Stable Diffusion's."""
    return make_transitions(variance_preserving(read_scheduler(folder, steps_offset=1), steps))


@given(
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
    total=st.integers(1, 1200),
    data=st.data(),
    offset=st.integers(0, 3),
)
def test_timesteps_are_as_many_as_asked_and_fall_within_the_table(
    spacing: str, total: int, data: st.DataObject, offset: int
) -> None:
    steps = data.draw(st.integers(1, total))
    scheduler = DDIMScheduler(num_train_timesteps=total, timestep_spacing=spacing, steps_offset=min(offset, total))
    found = timesteps(scheduler, steps)
    assert len(found) == steps
    assert found.dtype == torch.int64
    assert (found.diff() < 0).all()
    assert int(found[-1]) >= 0
    assert int(found[0]) < total


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [2, 7, 20, 50, 62])
def test_timesteps_are_those_of_diffusers_where_these_are_right(spacing: str, steps: int) -> None:
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    assert timesteps(scheduler, steps).tolist() == scheduler.timesteps.tolist()


@pytest.mark.parametrize(("spacing", "steps"), [("trailing", 61), ("trailing", 121), ("leading", 1000)])
def test_timesteps_stay_in_the_table_where_those_of_diffusers_do_not(spacing: str, steps: int) -> None:
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=1)
    scheduler.set_timesteps(steps)
    theirs = scheduler.timesteps.tolist()
    assert len(theirs) > steps or min(theirs) < 0 or max(theirs) > 999
    assert (
        make_transitions(variance_preserving(DDIMScheduler(**{**scheduler.config, "clip_sample": False}), steps))
        .std.isfinite()
        .all()
    )


def test_more_steps_than_the_model_was_trained_on_are_refused() -> None:
    with pytest.raises(ValueError, match=r"policy\.steps is 5000.*1000"):
        timesteps(DDIMScheduler(), 5000)


@given(
    name=st.sampled_from(VARIANCE_PRESERVING),
    steps=st.integers(2, 150),
    prediction=st.sampled_from(["epsilon", "v_prediction"]),
    schedule=st.sampled_from(["linear", "scaled_linear"]),
    spacing=st.sampled_from(["leading", "trailing", "linspace"]),
)
def test_every_listed_class_gives_a_chain(
    name: str, steps: int, prediction: str, schedule: str, spacing: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    clips = {"clip_sample": False} if name.startswith(("DDIM", "DDPM")) else {}
    values = {**BETAS, "beta_schedule": schedule, "prediction_type": prediction, "timestep_spacing": spacing, **clips}
    chain = chain_of(write(tmp_path_factory.mktemp("s"), name, **values), steps)
    assert len(chain) == steps
    assert torch.stack([chain.state_weight, chain.output_weight, chain.std]).isfinite().all()
    assert (chain.alpha_bar.diff() >= 0).all()
    assert len(chain.stochastic_steps) >= steps - 1


@pytest.mark.parametrize("name", VARIANCE_PRESERVING)
def test_the_table_is_that_of_ddim_and_the_end_that_of_the_class(name: str, tmp_path: Path) -> None:
    clips = {"clip_sample": False} if name.startswith(("DDIM", "DDPM")) else {}
    chain = chain_of(write(tmp_path, name, **BETAS, timestep_spacing="leading", **clips), 10)
    theirs = DDIMScheduler(**BETAS, steps_offset=1)
    theirs.set_timesteps(10)
    if name != "DPMSolverSinglestepScheduler":  # which has no spacing
        assert torch.equal(chain.timesteps, theirs.timesteps)
        torch.testing.assert_close(chain.alpha_bar[:-1], theirs.alphas_cumprod[theirs.timesteps])
    scheduler = getattr(diffusers, name).from_config(
        json.loads((tmp_path / "scheduler/scheduler_config.json").read_text())
    )
    scheduler.set_timesteps(10)
    if hasattr(scheduler, "final_alpha_cumprod"):
        end = float(scheduler.final_alpha_cumprod)
    else:
        end = 1 / (1 + float(scheduler.sigmas[-1]) ** 2) if hasattr(scheduler, "sigmas") else 1.0
    assert float(chain.alpha_bar[-1]) == pytest.approx(end, abs=1e-6)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "PNDMScheduler", "LMSDiscreteScheduler"])
def test_what_a_class_does_not_take_is_not_read(name: str, tmp_path: Path) -> None:
    chain_of(write(tmp_path, name, **BETAS, clip_sample=True, thresholding=True), 4)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("DDIMScheduler", {}, "clip_sample to false"),  # its own default
        ("DDPMScheduler", {"clip_sample": False, "thresholding": True}, "thresholding to false"),
        ("UniPCMultistepScheduler", {"thresholding": True}, "thresholding to false"),
        ("EulerDiscreteScheduler", {"prediction_type": "sample"}, "'sample'"),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "flow"),
        ("PNDMScheduler", {"trained_betas": [1.5, -2.0]}, "betas"),
        ("PNDMScheduler", {"beta_schedule": "cubic"}, "cubic"),
        ("DDPMScheduler", {"clip_sample": False, "trained_betas": [0.1] * 10}, "10 trained_betas"),
        ("PNDMScheduler", {"timestep_spacing": "odd"}, "timestep_spacing"),
        ("FlowMatchEulerDiscreteScheduler", {"clip_sample": False}, "FlowMatchEulerDiscreteScheduler"),
        ("FlowMatchHeunDiscreteScheduler", {}, "FlowMatchHeunDiscreteScheduler"),
        ("EDMEulerScheduler", {"clip_sample": False}, "EDMEulerScheduler"),
        ("LCMScheduler", {}, "LCMScheduler"),
        ("MyOwnScheduler", {}, "MyOwnScheduler"),
        ("PNDMScheduler", {"num_train_timesteps": 10**9}, "num_train_timesteps is 1000000000"),
        ("PNDMScheduler", {"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ("PNDMScheduler", {"num_train_timesteps": "1000"}, "num_train_timesteps is 1000"),
        ("PNDMScheduler", {"num_train_timesteps": None}, "num_train_timesteps is None"),
    ],
)
def test_what_cannot_be_sampled_is_refused_by_name(name: str, values: dict, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        chain_of(write(tmp_path, name, **values), 2)


def test_a_folder_without_a_scheduler_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=tmp_path.name):
        read_scheduler(str(tmp_path))
