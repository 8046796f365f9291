"""Stable Diffusion 3: its folder is refused in one sentence where it is not whole, or not one to draw with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from actors.config import PolicyConfig
from actors.model_check import check_model, check_prompts
from actors.policy import Policy
from actors.rollout import noise, rollout
from actors.trajectories import Request
from tests.support.tiny_flow import make_sd3

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sd3(tmp_path_factory.mktemp("sd3") / "model")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refused(model: Path, said: str, **values: Any) -> None:
    """It is refused alike before it is loaded and by what loads it, in one sentence."""
    for use in (check_model, Policy.load):
        with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
            use(PolicyConfig(model=str(model), device="cpu", steps=3, **values))
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_index_says_whether_there_is_a_third_encoder(folder: Path) -> None:
    """Without it zeros are in its text's place, which the network sees all the same."""
    with_t5 = Policy.load(PolicyConfig(model=str(folder), device="cpu")).encode(["a red circle"])["text"]
    edit(folder / "model_index.json", text_encoder_3=[None, None], tokenizer_3=[None, None])
    shutil.rmtree(folder / "text_encoder_3")
    policy = Policy.load(PolicyConfig(model=str(folder), device="cpu"))
    without = policy.encode(["a red circle"])["text"]
    assert with_t5.shape == without.shape == (1, 16 + 256, 40)
    assert torch.equal(with_t5[:, :16], without[:, :16])
    assert (with_t5[:, 16:] != 0).any()
    assert (without[:, 16:] == 0).all()


@pytest.mark.parametrize(
    ("t5", "scheduler"),
    [(False, {}), (True, {"use_dynamic_shifting": True, "base_image_seq_len": 4, "max_image_seq_len": 64})],
    ids=["without T5", "shifted by the size"],
)
def test_it_draws_what_the_plain_pipeline_draws(tmp_path: Path, t5: bool, scheduler: dict[str, Any]) -> None:
    model = make_sd3(tmp_path / "model", t5=t5, scheduler=scheduler)
    settings = {"device": "cpu", "steps": 4, "guidance": 2.0, "eta": 0.0, "height": 8, "width": 24}
    policy = Policy.load(PolicyConfig(model=str(model), **settings))
    request = Request(0, 0, ("a red circle", "two blue squares"), (0, 1), (0, 0), clean=True)
    pipeline = StableDiffusion3Pipeline.from_pretrained(
        model, **{} if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    )
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        list(request.prompts), latents=noise(request.keys, 0, policy.latent_shape), num_inference_steps=4,
        guidance_scale=2.0, height=8, width=24, output_type="latent",
    ).images  # fmt: skip
    ours = torch.from_numpy(rollout(policy, request)[1].clean)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    if scheduler:  # and the size is what it is shifted by
        other = Policy.load(PolicyConfig(model=str(model), **settings | {"width": 8}))
        assert not torch.equal(policy.transitions.sigma, other.transitions.sigma)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("text_encoder_3", "text_encoder_3"),
        ("tokenizer_3/tokenizer.json", "tokenizer_3 has no vocabulary .tokenizer.json, or spiece.model"),
        ("tokenizer_2", "tokenizer_2 has no vocabulary"),
        ("vae", "vae"),
        (TRANSFORMER, "holds no weights"),
        ("scheduler", "scheduler_config.json"),
    ],
)
def test_a_missing_part_is_named(folder: Path, part: str, said: str) -> None:
    path = folder / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(folder, said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transformer": {"in_channels": 8}}, "8 input .* VAE gives latents of 4"),
        ({"transformer": {"joint_attention_dim": 48}}, "width 32 .both CLIP. and 40 .T5. .* 48"),
        ({"transformer": {"pooled_projection_dim": 20}}, "project to 24 numbers .* 20"),
        ({"scheduler": {"invert_sigmas": True}}, "do not fall"),
    ],
)
def test_what_the_policy_cannot_drive_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    refused(make_sd3(tmp_path / "model", **changes), said)


def test_weights_that_are_not_those_of_the_config_are_refused(folder: Path) -> None:
    tensors = load_file(folder / TRANSFORMER)
    del tensors["proj_out.weight"]
    save_file(tensors, folder / TRANSFORMER)
    refused(folder, "lack proj_out.weight")


def test_one_name_of_a_tied_weight_is_enough_and_none_is_not(folder: Path) -> None:
    file = folder / "text_encoder_3" / "model.safetensors"
    tensors = load_file(file)
    tensors["encoder.embed_tokens.weight"] = tensors.pop("shared.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    assert check_model(PolicyConfig(model=str(folder))) is not None
    del tensors["encoder.embed_tokens.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    refused(folder, "lack (encoder.embed_tokens|shared).weight")


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ({"height": 18}, "policy.height is 18, .* by 4; .* 16 and 20"),
        ({"width": 64}, "at most 48"),
    ],
)
def test_sizes_that_the_networks_cannot_take_are_refused(whole: Path, size: dict[str, int], said: str) -> None:
    refused(whole, said, **size)
    assert Policy.load(PolicyConfig(model=str(whole), device="cpu", width=48)).latent_shape == (4, 8, 24)


def test_a_prompt_is_read_whole_or_refused(whole: Path) -> None:
    config, long = PolicyConfig(model=str(whole), device="cpu"), "circle " * 50
    with pytest.raises(ValueError, match=r"256 tokens .* policy\.prompt_windows=2"):
        check_prompts(config, ["a red circle", long])
    with pytest.raises(ValueError, match="351 tokens"):
        Policy.load(config).encode([long])
    config = config.model_copy(update={"prompt_windows": 2})
    check_prompts(config, [long])
    assert Policy.load(config).encode([long])["text"].shape[1] == 16 + 512
    refused(whole, r"prompt_windows is 3, .* can be told 2 windows .* set policy\.prompt_windows=2", prompt_windows=3)
