"""Flow matching by `use_flow_sigmas`: the levels of diffusers' own scheduler, and the pictures of its own pipeline."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from actors.config import PolicyConfig
from actors.flow_sigmas import flow_sigmas
from actors.noise_levels import NoiseLevels
from actors.policy import Policy
from actors.rollout import noise, rollout
from actors.trajectories import Request
from shapes.networks import make_flow_scheduler
from tests.support.tiny import make_pipeline

FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}


def levels(name: str = "DPMSolverMultistepScheduler", steps: int = 6, **values: object) -> NoiseLevels:
    config = {key: values.pop(key) for key in ("shift", "spacing") if key in values}
    return flow_sigmas(getattr(diffusers, name)(**FLOW | values), PolicyConfig(steps=steps, **config))


@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_the_levels_are_the_schedulers_and_signal_and_noise_make_one(name: str) -> None:
    found, theirs = levels(name), getattr(diffusers, name)(**FLOW)
    theirs.set_timesteps(6)
    assert torch.equal(found.timesteps, theirs.timesteps)
    assert torch.equal(found.sigma.float(), theirs.sigmas)
    torch.testing.assert_close(found.signal + found.sigma, torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-12)
    assert found.prediction == "velocity"
    assert (found.timesteps - 1000 * found.sigma[:-1]).abs().max() < 1.001  # rounded down


def test_a_shift_is_that_of_flow_matching_and_takes_the_place_of_the_models() -> None:
    plain, shifted = levels().sigma, levels(shift=3.0, flow_shift=2.0).sigma
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prediction_type": "epsilon"}, "flow_prediction"),
        ({"thresholding": True}, "thresholding"),
        ({"use_karras_sigmas": True}, "use_..._sigmas"),
        ({"final_sigmas_type": "sigma_min"}, "final_sigmas_type"),
        ({"spacing": "trailing"}, "policy.spacing=trailing"),
    ],
)
def test_what_is_another_process_is_refused(values: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        levels(**values)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_the_plain_pipeline_draws_the_same_pictures(guidance: float, tmp_path: Path) -> None:
    """Its first-order solver is Euler's method, DDIM without noise."""
    folder = make_pipeline(tmp_path, scheduler=make_flow_scheduler(), unet={"mid_block_type": None})
    config = PolicyConfig(model=str(folder), device="cpu", steps=5, guidance=guidance, eta=0.0, dtype="float32")
    prompts = ("a red circle", "four blue stars")
    request = Request(seed=1, iteration=0, prompts=prompts, prompt_index=(0, 1), sample_index=(0, 0), clean=True)
    policy = Policy.load(config)
    _, ours = rollout(policy, request)
    assert ours.clean is not None
    start = noise(request.keys, 0, policy.latent_shape)
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    assert isinstance(pipeline.scheduler, DPMSolverMultistepScheduler)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        list(prompts), latents=start, num_inference_steps=5, guidance_scale=guidance, output_type="latent"
    ).images
    torch.testing.assert_close(torch.from_numpy(ours.clean), theirs, rtol=0, atol=1e-5)
