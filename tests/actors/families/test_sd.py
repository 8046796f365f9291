"""What is Stable Diffusion 1's and 2's own: what they may not be, their own sizes, velocities and zero terminal SNR."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from actors.config import PolicyConfig
from actors.model_check import check_model
from actors.policy import Policy
from actors.rollout import noise, rollout
from actors.trajectories import Request
from shapes.networks import make_scheduler
from tests.support.tiny import make_pipeline

REQUEST = Request(0, 0, ("a red circle", "two blue squares"), (0, 1), (0, 0), clean=True)


def config_of(model: Path, **values: Any) -> PolicyConfig:
    return PolicyConfig(model=str(model), device="cpu", **{"steps": 4, "guidance": 2.0, **values})


def refused(model: Path, said: str, **values: Any) -> None:
    for use in (check_model, Policy.load):
        with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            use(config_of(model, **values))
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)


def drawn(model: Path, policy: Policy, **values: Any) -> Any:
    """The plain pipeline's latents or pictures from the noise that `REQUEST` begins with."""
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        list(REQUEST.prompts), latents=noise(REQUEST.keys, 0, policy.latent_shape), num_inference_steps=4,
        guidance_scale=2.0, **values,
    ).images  # fmt: skip


@pytest.mark.parametrize(
    ("unet", "said"),
    [
        ({"in_channels": 9}, "9 input channels"),
        ({"in_channels": 8}, "8 input channels"),
        ({"out_channels": 8}, "8 channels for latents of 4"),
        ({"num_class_embeds": 10}, "class labels"),
        ({"time_cond_proj_dim": 8}, "guidance scale"),
        (
            {
                "addition_embed_type": "text_time",
                "addition_time_embed_dim": 4,
                "projection_class_embeddings_input_dim": 40,
            },
            "SDXL",
        ),
        ({"cross_attention_dim": 32}, "width 16 .* 32"),
    ],
)
def test_what_the_policy_cannot_drive_is_refused(tmp_path: Path, unet: dict[str, Any], said: str) -> None:
    refused(make_pipeline(tmp_path / "model", unet=unet), said)


def test_a_models_own_pictures_need_not_be_square(tmp_path: Path) -> None:
    model = make_pipeline(tmp_path / "model", unet={"sample_size": [4, 8]})
    policy = Policy.load(config_of(model, eta=0.0))
    assert policy.latent_shape == (4, 4, 8)
    pixels, _ = rollout(policy, REQUEST)
    assert pixels.shape == (2, 8, 16, 3)
    theirs = drawn(model, policy, height=8, width=16, output_type="np")
    assert np.abs(pixels / 255 - theirs).max() <= 1.01 / 255
    assert Policy.load(config_of(model, width=32)).latent_shape == (4, 4, 16)  # the other side stays the model's


def test_a_size_divides_by_what_the_networks_halve_it_by(tiny_pipeline: Path) -> None:
    """The VAE halves once here, the UNet once."""
    refused(tiny_pipeline, r"policy\.width is 18, .* by 4; the nearest that will do: 16 and 20\.", width=18)
    refused(tiny_pipeline, r"policy\.height is 2, .* by 4; the nearest that will do: 4\.", height=2)


@pytest.mark.parametrize(
    ("scheduler", "rescale"),
    [
        ({}, 0.0),
        ({"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}, 0.7),
    ],
    ids=["velocities", "zero terminal SNR"],
)
def test_velocities_are_drawn_as_the_plain_pipeline_draws_them(
    tmp_path: Path, scheduler: dict[str, Any], rescale: float
) -> None:
    values = {"prediction_type": "v_prediction", **scheduler}
    model = make_pipeline(tmp_path / "model", scheduler=DDIMScheduler.from_config(make_scheduler().config, **values))
    policy = Policy.load(config_of(model, eta=0.0, guidance_rescale=rescale))
    assert (policy.transitions.signal[0] == 0) == bool(scheduler)
    ours = torch.from_numpy(rollout(policy, REQUEST)[1].clean)
    theirs = drawn(model, policy, guidance_rescale=rescale, output_type="latent")
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    if rescale:
        plain = Policy.load(config_of(model, eta=0.0))
        assert (torch.from_numpy(rollout(plain, REQUEST)[1].clean) - ours).abs().max() > 1e-3


@torch.no_grad()
def test_an_encoder_that_wants_to_know_its_tokens_is_told(tiny_pipeline: Path, tmp_path: Path) -> None:
    """`use_attention_mask`, as some encoders of other languages have it."""
    model = Path(shutil.copytree(tiny_pipeline, tmp_path / "model"))
    path = model / "text_encoder/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_attention_mask": True}))
    ours = Policy.load(config_of(model)).encode(REQUEST.prompts)["text"]
    pipeline = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    theirs, _ = pipeline.encode_prompt(list(REQUEST.prompts), "cpu", 1, do_classifier_free_guidance=False)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    assert not torch.equal(ours, Policy.load(config_of(tiny_pipeline)).encode(REQUEST.prompts)["text"])
