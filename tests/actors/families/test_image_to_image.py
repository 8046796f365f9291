"""Image to image of flow models is that of diffusers' own pipelines; Stable Diffusion's is in `test_rollout`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FluxImg2ImgPipeline, StableDiffusion3Img2ImgPipeline
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.flux import pipeline_flux_img2img
from diffusers.pipelines.stable_diffusion_3 import pipeline_stable_diffusion_3_img2img
from PIL import Image

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import noise, rollout
from actors.trajectories import Request
from tests.support.tiny_flow import make_flux, make_sd3, unpack_flux

PROMPTS = ("a red circle", "two blue squares")
FLUX = (make_flux, FluxImg2ImgPipeline, pipeline_flux_img2img)
SD3 = (make_sd3, StableDiffusion3Img2ImgPipeline, pipeline_stable_diffusion_3_img2img)


@pytest.mark.parametrize(("make", "kind", "module"), [SD3, FLUX], ids=["sd3", "flux"])
@pytest.mark.parametrize(("strength", "first"), [(1.0, 0), (0.75, 1), (0.5, 2)])
def test_without_noise_it_draws_what_the_plain_pipeline_draws(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[[Path], Path],
    kind: type[DiffusionPipeline],
    module: object,
    strength: float,
    first: int,
) -> None:
    """From the same pictures, the mean of what the encoder gives of them, and the same noise."""
    model = make(tmp_path / "model")
    size = {"height": 16, "width": 16}
    policy = Policy.load(PolicyConfig(model=str(model), device="cpu", steps=4, guidance=2.0, eta=0.0, **size))
    drawn = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), np.uint8)
    request = Request(0, 0, PROMPTS, (0, 1), (0, 0), clean=True, first_step=first, start=tuple(drawn))
    pixels, trajectories = rollout(policy, request)
    given = noise(request.keys, 0, policy.latent_shape)
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: given)
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mean)
    pipeline = kind.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)

    def plain(output: str) -> Any:
        return pipeline(
            list(PROMPTS), image=[Image.fromarray(image) for image in drawn], strength=strength,
            num_inference_steps=4, guidance_scale=2.0, output_type=output, **size,
        ).images  # fmt: skip

    ours, theirs = torch.from_numpy(trajectories.clean), plain("latent")
    theirs = unpack_flux(theirs, ours.shape) if make is make_flux else theirs
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert np.abs(pixels / 255 - plain("np")).max() <= 1.01 / 255
