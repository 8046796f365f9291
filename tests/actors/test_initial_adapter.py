"""Starting from an adapter of someone's: the same function in every format, and sentences for what does not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import load_file, save_file

from actors.adapters import DEFAULT, FILE, LoraShape
from actors.config import PolicyConfig
from actors.model_check import check_model
from actors.policy import Policy

PROMPTS = ["a red circle", "two blue squares"]


@torch.no_grad()
def predict(policy: Policy) -> torch.Tensor:
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    return policy.predict(x, torch.tensor([0, 3]), policy.encode(PROMPTS))


@pytest.fixture
def trained(policy: Policy, nudge: Any) -> Policy:
    """A policy that has moved away from the pretrained one."""
    nudge(policy)
    return policy


def test_a_run_starts_where_another_ended(policy_config: PolicyConfig, trained: Policy, tmp_path: Path) -> None:
    """In learner and samplers alike, whatever their seeds; adapters off are still the pretrained model."""
    pretrained = predict(Policy.load(policy_config))
    trained.save_lora(tmp_path)
    for source in (tmp_path, tmp_path / FILE):
        config = policy_config.model_copy(update={"init_lora": str(source)})
        assert check_model(config) is not None
        for seed in (0, 7):
            policy = Policy.load(config, seed)
            assert np.array_equal(policy.weights()[0], trained.weights()[0])
            assert torch.equal(predict(policy), predict(trained))
    with policy.using(None):
        assert torch.equal(predict(policy), pretrained)
    assert not torch.equal(predict(policy), pretrained)
    assert all(parameter.requires_grad for parameter in policy.parameters)


def test_another_alpha_is_folded_in(policy_config: PolicyConfig, trained: Policy, tmp_path: Path) -> None:
    trained.save_lora(tmp_path)
    policy = Policy.load(policy_config.model_copy(update={"init_lora": str(tmp_path), "lora_alpha": 8}))
    torch.testing.assert_close(predict(policy), predict(trained), atol=1e-5, rtol=1e-5)


def test_kohya_files_are_read_with_their_alpha(policy_config: PolicyConfig, trained: Policy, tmp_path: Path) -> None:
    trained.save_lora(tmp_path)
    kohya = convert_state_dict_to_kohya(load_file(tmp_path / FILE))
    for name in kohya:
        if name.endswith(".alpha"):
            kohya[name] = torch.tensor(1.0)  # half the rank
    save_file({name: tensor.contiguous() for name, tensor in kohya.items()}, tmp_path / "kohya.safetensors")
    policy = Policy.load(policy_config.model_copy(update={"init_lora": str(tmp_path / "kohya.safetensors")}))
    pipeline = StableDiffusionPipeline.from_pretrained(policy_config.model, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name="kohya.safetensors")
    x, text = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)), policy.encode(PROMPTS)["text"]
    with torch.no_grad():
        ours, theirs = (unet(x, torch.tensor([481, 1]), text).sample for unet in (policy.network, pipeline.unet))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_scale_that_would_be_dropped_is_refused(policy_config: PolicyConfig, trained: Policy, tmp_path: Path) -> None:
    """diffusers leaves out what makes a DoRA of a LoRA, which is then another adapter."""
    trained.save_lora(tmp_path)
    kohya = convert_state_dict_to_kohya(load_file(tmp_path / FILE))
    layer = next(iter(kohya)).split(".")[0]
    save_file(
        {**{name: tensor.contiguous() for name, tensor in kohya.items()}, f"{layer}.dora_scale": torch.ones(1, 8)},
        tmp_path / "dora.safetensors",
    )
    with pytest.raises(ValueError, match=r"no plain LoRA of the denoiser \(.*dora_scale is in it\)"):
        check_model(policy_config.model_copy(update={"init_lora": str(tmp_path / "dora.safetensors")}))


FROM_FILE = {"lora_rank": None, "lora_alpha": None, "lora_targets": None}


@pytest.mark.parametrize(
    "shape",
    [
        LoraShape(3, 5, ("proj_in", "to_out.0", "to_q")),
        LoraShape(1, 0.5, ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",)),  # one of many to_q
    ],
)
def test_rank_alpha_and_targets_that_are_not_given_are_the_files(
    policy_config: PolicyConfig, tmp_path: Path, nudge: Any, shape: LoraShape
) -> None:
    settings = dict(zip(FROM_FILE, shape, strict=True))
    trained = Policy.load(policy_config.model_copy(update=settings))
    nudge(trained)
    trained.save_lora(tmp_path)
    config = policy_config.model_copy(update={"init_lora": str(tmp_path), **FROM_FILE})
    assert check_model(config) is not None
    policy = Policy.load(config)
    assert policy.lora == shape
    assert np.array_equal(policy.weights()[0], trained.weights()[0])
    assert torch.equal(predict(policy), predict(trained))
    policy.snapshot("reference")
    assert policy.weights("reference")[1] == policy.weights()[1]
    mixed = Policy.load(config.model_copy(update={"lora_alpha": 2}))  # what is given counts, and alpha is folded in
    assert mixed.lora == shape._replace(alpha=2)
    torch.testing.assert_close(predict(mixed), predict(trained), atol=1e-5, rtol=1e-5)


def test_layers_may_have_alphas_of_their_own(policy_config: PolicyConfig, trained: Policy, tmp_path: Path) -> None:
    trained.save_lora(tmp_path)
    kohya = convert_state_dict_to_kohya(load_file(tmp_path / FILE))
    for number, name in enumerate(sorted(name for name in kohya if name.endswith(".alpha"))):
        kohya[name] = torch.tensor(1.0 + number % 2)
    save_file({name: tensor.contiguous() for name, tensor in kohya.items()}, tmp_path / "kohya.safetensors")
    source = {"init_lora": str(tmp_path / "kohya.safetensors")}
    policy = Policy.load(policy_config.model_copy(update=source | FROM_FILE))
    assert policy.lora[:2] == (2, 2)
    given = Policy.load(policy_config.model_copy(update=source))
    assert torch.equal(predict(policy), predict(given))
    assert not torch.equal(predict(policy), predict(trained))


def test_without_an_adapter_to_start_from_the_defaults_hold(policy_config: PolicyConfig) -> None:
    assert Policy.load(policy_config.model_copy(update=FROM_FILE)).lora == DEFAULT


def test_an_adapter_of_several_ranks_or_of_layers_that_are_not_there_is_refused(
    policy_config: PolicyConfig, trained: Policy, tmp_path: Path
) -> None:
    trained.save_lora(tmp_path)
    tensors = load_file(tmp_path / FILE)
    config = policy_config.model_copy(update={"init_lora": str(tmp_path / "x.safetensors"), **FROM_FILE})
    first = min(tensors).rpartition(".lora_")[0]
    wider = {f"{first}.lora_A.weight": torch.zeros(3, 8), f"{first}.lora_B.weight": torch.zeros(8, 3)}
    save_file(tensors | wider, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"layers of the ranks \[2, 3\]"):
        check_model(config)
    save_file({"unet.attn9.to_q.lora_A.weight": torch.zeros(2, 8)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"another base model: it adapts attn9\.to_q"):
        check_model(config)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora_rank": 8}, r"set policy\.lora_rank=2"),
        ({"lora_targets": ("to_q", "to_k")}, "other layers.*to_k, to_out.0, to_q, to_v"),
        ({"lora_targets": ("to_q", "to_k", "to_v", "to_out.0", "proj_in")}, "other layers"),
    ],
)
def test_an_adapter_of_another_shape_is_refused(
    policy_config: PolicyConfig, trained: Policy, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    trained.save_lora(tmp_path)
    config = policy_config.model_copy(update={"init_lora": str(tmp_path), **changes})
    for use in (check_model, Policy.load):
        with pytest.raises(ValueError, match=said):
            use(config)


def test_what_is_no_adapter_of_the_unet_is_refused(
    policy_config: PolicyConfig, trained: Policy, tmp_path: Path
) -> None:
    def refused(said: str, source: Path = tmp_path / "x.safetensors") -> None:
        with pytest.raises((ValueError, FileNotFoundError), match=said):
            check_model(policy_config.model_copy(update={"init_lora": str(source)}))

    refused("no adapter")
    refused("0 safetensors files", tmp_path)
    trained.save_lora(tmp_path)
    tensors = load_file(tmp_path / FILE)
    save_file(tensors | {"text_encoder.a.lora_A.weight": torch.zeros(2, 2)}, tmp_path / "x.safetensors")
    refused("adapts text_encoder too")
    save_file({name: torch.zeros(2, 2) for name in tensors}, tmp_path / "x.safetensors")
    refused("another base model")
    save_file({"unet.weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    refused("no plain LoRA")
    (tmp_path / "x.safetensors").write_text("{}")
    refused("cannot be read")


@pytest.mark.parametrize("alpha", [0, "x", None, True, [1]])
def test_an_alpha_that_leaves_nothing_is_refused(
    policy_config: PolicyConfig, trained: Policy, tmp_path: Path, alpha: Any
) -> None:
    trained.save_lora(tmp_path)
    named = {f"base_model.model.{k.removeprefix('unet.')}": t for k, t in load_file(tmp_path / FILE).items()}
    (tmp_path / "peft").mkdir()
    save_file(named, tmp_path / "peft" / "adapter_model.safetensors")
    config = policy_config.model_copy(update={"init_lora": str(tmp_path / "peft"), **FROM_FILE})
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 2}))
    assert check_model(config) is not None
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": alpha}))
    with pytest.raises(ValueError, match="has the alpha"):
        check_model(config)
    (tmp_path / "peft" / "adapter_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="holds no values by name"):
        check_model(config)
