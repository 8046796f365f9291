"""The flow matching twin: how its training begins, what it learns, and what is written of it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from shapes import PIPELINE
from shapes.captions import sample_caption
from shapes.fit_pipeline import encode, fit_denoiser
from shapes.networks import make_flow_twin
from shapes.pretrain_flow import load, save_twin
from shapes.render import render


@pytest.fixture
def twin() -> StableDiffusionPipeline:
    return make_flow_twin(load(PIPELINE))


def test_all_of_its_network_comes_from_the_other_but_for_the_block_that_it_lacks(twin: StableDiffusionPipeline) -> None:
    theirs, own = load(PIPELINE).unet.state_dict(), twin.unet.state_dict()
    assert own.keys() == {name for name in theirs if not name.startswith("mid_block.")}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in own.items())


@torch.no_grad()
def velocity_error(pipeline: StableDiffusionPipeline, texts: list[str], latents: torch.Tensor) -> float:
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(latents.shape, generator=generator)
    sigma = torch.rand(len(latents), generator=generator)
    noisy = (1 - sigma).view(-1, 1, 1, 1) * latents + sigma.view(-1, 1, 1, 1) * noise
    ids = pipeline.tokenizer(texts, padding="max_length", return_tensors="pt").input_ids
    found = pipeline.unet(noisy, 1000 * sigma, pipeline.text_encoder(ids).last_hidden_state).sample
    return (found - (noise - latents)).square().mean().item()


def test_it_learns_the_velocity_and_leaves_the_shared_parts_alone(twin: StableDiffusionPipeline) -> None:
    torch.manual_seed(0)
    rng = random.Random(0)
    captions = [sample_caption(rng) for _ in range(64)]
    texts, images = [caption.text for caption in captions], np.stack([render(caption, rng) for caption in captions])
    latents, text_before = encode(twin.vae, images), twin.text_encoder.state_dict()
    text_before = {name: tensor.clone() for name, tensor in text_before.items()}
    before = velocity_error(twin, texts, latents)
    fit_denoiser(twin, texts, images, 10, 16)
    assert velocity_error(twin, texts, latents) < 0.8 * before
    assert all(torch.equal(tensor, text_before[name]) for name, tensor in twin.text_encoder.state_dict().items())


def test_what_is_shared_is_written_once(twin: StableDiffusionPipeline, tmp_path: Path) -> None:
    (tmp_path / PIPELINE.name).symlink_to(PIPELINE)
    folder = tmp_path / "flow_pipeline"
    for _ in range(2):  # also over an older one
        save_twin(twin, folder)
    assert {path.name for path in folder.iterdir() if path.is_symlink()} == {"vae", "text_encoder", "tokenizer"}
    again = load(folder)
    again.set_progress_bar_config(disable=True)
    assert again.scheduler.config.prediction_type == "flow_prediction"
    assert again(["a red star"], num_inference_steps=2, output_type="np").images.shape == (1, 32, 32, 3)
