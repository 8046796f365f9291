"""FLUX.1: what its guidance means, which models are refused, and adapters of kohya's names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import save_file
from torch import Tensor

from actors.config import PolicyConfig
from actors.model_check import check_model
from actors.policy import Policy
from tests.support.tiny_flow import make_flux, pack_flux, unpack_flux

PROMPTS = ["a red circle", "two blue squares"]


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_flux(tmp_path_factory.mktemp("flux") / "model")


@pytest.fixture(scope="module")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_flux(tmp_path_factory.mktemp("flux") / "model", guidance=False)


def config_of(model: Path, **values: Any) -> PolicyConfig:
    return PolicyConfig(**{"model": str(model), "device": "cpu", "steps": 4, "height": 16, "width": 16, **values})


@torch.no_grad()
def predict(policy: Policy, steps: tuple[int, int] = (0, 3)) -> Tensor:
    x = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(3))
    return policy.predict(x, torch.tensor(steps), policy.encode(PROMPTS))


def refused(config: PolicyConfig, said: str) -> None:
    for use in (check_model, Policy.load):
        with pytest.raises(ValueError, match=said) as caught:
            use(config)
        assert str(caught.value).endswith(".")


def test_dev_is_told_the_guidance_in_one_pass(dev: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = (Policy.load(config_of(dev, guidance=scale)) for scale in (1.0, 6.0))
    assert (predict(low) - predict(high)).abs().max() > 1e-3
    sizes: list[int] = []
    high.network.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["encoder_hidden_states"])), with_kwargs=True
    )
    predict(high)
    assert sizes == [2]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"guidance": 3.5, "negative_prompt": "a star"}, r"policy\.negative_prompt does nothing"),
        ({"guidance": 3.5, "negative_prompt": ""}, r"policy\.negative_prompt does nothing"),
        ({"guidance": 3.5, "guidance_rescale": 0.7}, r"policy\.guidance_rescale does nothing"),
        ({"prompt_windows": 2}, r"policy\.prompt_windows is 2, but .* told 1 window .* set policy\.prompt_windows=1"),
        ({"spacing": "leading"}, r"policy\.spacing=leading"),
    ],
)
def test_settings_that_dev_has_nothing_for_are_refused(dev: Path, settings: dict[str, Any], said: str) -> None:
    refused(config_of(dev, **settings), said)


def test_schnell_has_no_guidance(schnell: Path) -> None:
    refused(config_of(schnell, guidance=3.5), r"policy\.guidance is 3\.5, .* set policy\.guidance=1")
    assert torch.equal(*(predict(Policy.load(config_of(schnell, guidance=scale))) for scale in (0.0, 1.0)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"transformer": {"in_channels": 36, "out_channels": 16}}, "36 input and 16 output .* packed to 16: it fills"),
        ({"transformer": {"joint_attention_dim": 32}}, r"width 24 \(T5\) and 16 \(CLIP\) .* 32 and 16"),
    ],
)
def test_models_that_fill_or_are_mixed_are_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    refused(config_of(make_flux(tmp_path / "model", **changes)), said)


def test_patches_are_packed_and_unpacked_without_loss() -> None:
    latents = torch.randn(2, 4, 8, 12)
    assert torch.equal(unpack_flux(pack_flux(latents), latents.shape), latents)


def test_kohyas_names_are_read_as_diffusers_reads_them(dev: Path, tmp_path: Path) -> None:
    """With their alpha; its names join query, key and value."""
    generator, rank, alpha = torch.Generator().manual_seed(0), 2, 1.0
    shapes = {"img_attn_qkv": (48, 16), "txt_attn_qkv": (48, 16), "img_attn_proj": (16, 16), "txt_attn_proj": (16, 16)}
    tensors = {}
    for layer, (outs, ins) in shapes.items():
        name = f"lora_unet_double_blocks_0_{layer}"
        tensors |= {
            f"{name}.lora_down.weight": torch.randn(rank, ins, generator=generator),
            f"{name}.lora_up.weight": torch.randn(outs, rank, generator=generator),
            f"{name}.alpha": torch.tensor(alpha),
        }
    save_file(tensors, tmp_path / "kohya.safetensors")
    config = config_of(dev, init_lora=str(tmp_path / "kohya.safetensors"))
    assert check_model(config) is not None
    policy, pipeline = Policy.load(config), FluxPipeline.from_pretrained(dev)
    untouched = predict(Policy.load(config_of(dev)))
    pipeline.load_lora_weights(tmp_path, weight_name="kohya.safetensors")
    ours = predict(policy)
    policy._family.network = pipeline.transformer
    torch.testing.assert_close(ours, predict(policy), atol=1e-5, rtol=1e-5)
    assert (ours - untouched).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_close_and_its_pictures_are_finite(dev: Path, dtype: str) -> None:
    """At a time and a guidance that half precision has, which the network multiplies by 1000 in it."""
    half, full = (Policy.load(config_of(dev, dtype=name, guidance=1.0)) for name in (dtype, "float32"))
    found, expected = predict(half, (0, 0)), predict(full, (0, 0))
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm() / expected.norm() < 0.1
    assert half.decode(torch.randn(1, *half.latent_shape)).isfinite().all()
