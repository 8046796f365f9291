"""What is Stable Diffusion XL's own: two text encoders, sizes that the UNet is told, its VAE, what it may not be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionXLPipeline
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import load_file, save_file

from actors.adapters import FILE
from actors.config import PolicyConfig
from actors.model_check import check_model
from actors.policy import Policy
from actors.rollout import noise, rollout
from actors.trajectories import Request
from tests.support.tiny_sdxl import make_sdxl

PROMPTS = ["a red circle", "two blue squares"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sdxl(tmp_path_factory.mktemp("sdxl") / "pipeline")


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return Path(shutil.copytree(model, tmp_path / "model"))


def config_of(model: Path, **values: Any) -> PolicyConfig:
    settings = {"steps": 3, "guidance": 2.0, "lora_rank": 2, "lora_alpha": 2, **values}
    return PolicyConfig(model=str(model), device="cpu", **settings)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refused(model: Path, said: str, **values: Any) -> None:
    for use in (check_model, Policy.load):
        with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            use(config_of(model, **values))
        assert str(caught.value).endswith(".")


@torch.no_grad()
def test_what_the_unet_is_told_is_what_the_pipeline_tells_it(model: Path) -> None:
    policy = Policy.load(config_of(model, width=24))
    pipeline = StableDiffusionXLPipeline.from_pretrained(model)
    text, nothing, pooled, pooled_nothing = pipeline.encode_prompt(PROMPTS, negative_prompt=None)
    told, unprompted = policy.encode(PROMPTS), policy._unprompted
    torch.testing.assert_close(told["text"], text, atol=1e-6, rtol=0)
    torch.testing.assert_close(told["pooled"], pooled, atol=1e-6, rtol=0)
    assert told["time_ids"].tolist() == [[16, 24, 0, 0, 16, 24]] * 2
    for zeros in (nothing, unprompted["text"], pooled_nothing, unprompted["pooled"]):
        assert not zeros.any()
    assert unprompted["time_ids"].tolist() == [[16, 24, 0, 0, 16, 24]]


@torch.no_grad()
@pytest.mark.parametrize("forced", [True, False])
def test_an_empty_negative_prompt_is_not_none_unless_the_model_says_so(copy: Path, forced: bool) -> None:
    edit(copy / "model_index.json", force_zeros_for_empty_prompt=forced)
    none, empty = (Policy.load(config_of(copy, negative_prompt=text)) for text in (None, ""))
    assert torch.equal(none._unprompted["text"], empty._unprompted["text"]) != forced
    pipeline = StableDiffusionXLPipeline.from_pretrained(copy)
    torch.testing.assert_close(none._unprompted["text"], pipeline.encode_prompt("x")[1], atol=1e-6, rtol=0)


@torch.no_grad()
def test_the_pooled_vector_of_a_long_prompt_is_its_first_windows(model: Path) -> None:
    one, two = (Policy.load(config_of(model, prompt_windows=windows)) for windows in (1, 2))
    begin = "red circle " * 7
    long = two.encode([begin + "blue star"])
    assert torch.equal(two.encode([begin + "a blue star"])["pooled"], long["pooled"])
    torch.testing.assert_close(long["pooled"], one.encode([begin])["pooled"])
    assert long["text"].shape[1] == 2 * one.encode([begin])["text"].shape[1]


@torch.no_grad()
def test_the_moments_of_latents_that_a_vae_has_are_used(tmp_path: Path) -> None:
    moments = {"latents_mean": [0.5, -1.0, 2.0, 0.1], "latents_std": [2.0, 0.5, 1.5, 1.0]}
    model = make_sdxl(tmp_path / "model", vae=moments)
    policy = Policy.load(config_of(model, eta=0.0))
    pipeline = StableDiffusionXLPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    request = Request(0, 0, ("a red circle",), (0,), (0,), clean=True)
    ours = policy.decode(torch.from_numpy(rollout(policy, request)[1].clean)).permute(0, 2, 3, 1)
    theirs = pipeline(
        "a red circle", latents=noise(request.keys, 0, (4, 8, 8)), num_inference_steps=3, guidance_scale=2.0,
        output_type="np",
    ).images  # fmt: skip
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-5, rtol=0)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    vae = AutoencoderKL.from_pretrained(model, subfolder="vae")
    plain = vae.encode(2 * images - 1).latent_dist.mean
    back = policy.encode_images(images) * torch.tensor(moments["latents_std"]).view(4, 1, 1) / vae.config.scaling_factor
    torch.testing.assert_close(back + torch.tensor(moments["latents_mean"]).view(4, 1, 1), plain, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("forced", [True, False])
def test_a_vae_that_overflows_in_float16_is_kept_in_float32(tmp_path: Path, forced: bool) -> None:
    policy = Policy.load(config_of(make_sdxl(tmp_path / "model", vae={"force_upcast": forced}), dtype="float16"))
    assert policy.network.dtype == torch.float16
    assert policy._family._autoencoder._network.dtype == (torch.float32 if forced else torch.float16)
    assert policy.decode(torch.zeros(1, 4, 8, 8)).dtype == torch.float32


def test_velocities_and_zero_terminal_snr_are_the_schedulers(tmp_path: Path) -> None:
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type="v_prediction",
        rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False,
    )  # fmt: skip
    model = make_sdxl(tmp_path / "model", scheduler=scheduler)
    values = {"guidance_rescale": 0.7}
    policy = Policy.load(config_of(model, eta=0.0, steps=4, **values))  # 4 divide 1000, else DDIM misses a state
    assert policy.transitions.signal[0] == 0
    pipeline = StableDiffusionXLPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    request = Request(0, 0, ("a red circle",), (0,), (0,), clean=True)
    theirs = pipeline(
        "a red circle", latents=noise(request.keys, 0, (4, 8, 8)), num_inference_steps=4, guidance_scale=2.0,
        output_type="latent", **values,
    ).images  # fmt: skip
    torch.testing.assert_close(torch.from_numpy(rollout(policy, request)[1].clean), theirs, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_kohya_files_are_read_with_their_alpha(model: Path, nudge: Callable[..., None], tmp_path: Path) -> None:
    trained = Policy.load(config_of(model))
    nudge(trained)
    trained.save_lora(tmp_path)
    kohya = convert_state_dict_to_kohya(load_file(tmp_path / FILE))
    halved = {name: torch.tensor(1.0) if name.endswith(".alpha") else tensor for name, tensor in kohya.items()}
    save_file({name: tensor.contiguous() for name, tensor in halved.items()}, tmp_path / "kohya.safetensors")
    policy = Policy.load(config_of(model, init_lora=str(tmp_path / "kohya.safetensors")))
    pipeline = StableDiffusionXLPipeline.from_pretrained(model)
    pipeline.load_lora_weights(tmp_path, weight_name="kohya.safetensors")
    x, told = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)), policy.encode(PROMPTS)
    added = {"text_embeds": told["pooled"], "time_ids": told["time_ids"]}
    ours, theirs, fresh = (
        unet(x, torch.tensor([481, 1]), told["text"], added_cond_kwargs=added).sample
        for unet in (policy.network, pipeline.unet, Policy.load(config_of(model)).network)
    )
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours - fresh).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("unet", "said"),
    [
        ({"in_channels": 9}, "9 input channels"),
        ({"in_channels": 8}, "8 input channels"),
        ({"out_channels": 8}, "8 channels for latents of 4"),
        ({"time_cond_proj_dim": 8}, "guidance scale"),
        ({"num_class_embeds": 10}, "class labels"),
        ({"projection_class_embeddings_input_dim": 8 + 5 * 4}, "takes 28 added numbers where .* 32: it is a refiner"),
        ({"addition_embed_type": None}, "told no size"),
        ({"cross_attention_dim": 16}, "width 40 .* 16"),
    ],
)
def test_what_the_policy_cannot_drive_is_refused(tmp_path: Path, unet: dict[str, Any], said: str) -> None:
    refused(make_sdxl(tmp_path / "model", unet=unet), said)


def test_a_refiner_that_calls_itself_a_base_model_is_refused(copy: Path) -> None:
    edit(copy / "model_index.json", text_encoder=[None, None], tokenizer=[None, None])
    refused(copy, "needs a CLIPTextModel as its text_encoder, but has none")


def test_both_text_encoders_and_tokenizers_are_held_to_their_files(copy: Path) -> None:
    edit(copy / "tokenizer_2/tokenizer_config.json", model_max_length=12)
    refused(copy, "16 and 12 tokens")
    (copy / "text_encoder_2/model.safetensors").write_bytes(b"x")
    refused(copy, "text_encoder_2/model.safetensors cannot be read")
    shutil.rmtree(copy / "tokenizer_2")
    (copy / "tokenizer_2").mkdir()
    shutil.copy(copy / "tokenizer/tokenizer_config.json", copy / "tokenizer_2")
    shutil.copytree(copy / "text_encoder", copy / "text_encoder_2", dirs_exist_ok=True)
    refused(copy, "text of width 32 where its UNet attends to 40")
