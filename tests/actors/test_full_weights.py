"""Full fine-tuning: copies of all weights take each other's place, travel, are written, and are read by diffusers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from actors.config import PolicyConfig
from actors.export import full_pipeline
from actors.full_weights import FILE, FOLDER
from actors.model_check import check_model
from actors.policy import Policy

Nudge = Callable[..., None]


@pytest.fixture
def full_config(tiny_pipeline: Path) -> PolicyConfig:
    return PolicyConfig(model=str(tiny_pipeline), device="cpu", steps=5, guidance=2.0, train="full")


@pytest.fixture
def full(full_config: PolicyConfig) -> Policy:
    return Policy.load(full_config)


def predict(policy: Policy) -> Tensor:
    x = torch.randn(2, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    return policy.predict(x, torch.tensor([1, 3]), policy.encode(["a red circle", "two blue squares"]))


def same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other)


def test_it_begins_as_the_pretrained_network_and_trains_all_of_it(full: Policy, policy: Policy) -> None:
    network = UNet2DConditionModel.from_pretrained(full.config.model, subfolder="unet")
    assert sum(p.numel() for p in full.parameters) == network.num_parameters()
    assert all(p.dtype == torch.float32 and p.requires_grad for p in full.parameters)
    with torch.no_grad():
        assert same(predict(full), predict(policy))


def test_who_acts_is_who_predicts(full: Policy, nudge: Nudge) -> None:
    with torch.no_grad():
        pretrained = predict(full)
        full.snapshot("before")
        nudge(full, 0.02)
        own = predict(full)
        with full.using(None):
            assert same(predict(full), pretrained)
            full.snapshot("now")  # of the trained one, whoever acts
        with full.using("before"):
            assert same(predict(full), pretrained)
        with full.using("now"):
            assert same(predict(full), own)
        assert same(predict(full), own)
    assert not same(own, pretrained)
    assert full.snapshots == ["before", "now"]


def test_gradients_are_the_trained_copys_whoever_acts_on_the_way_back(full: Policy, nudge: Nudge) -> None:
    nudge(full, 0.02)
    predict(full).square().sum().backward()
    kept = [p.grad.clone() for p in full.parameters if p.grad is not None]
    assert len(kept) == len(full.parameters)
    for parameter in full.parameters:
        parameter.grad = None
    loss = predict(full).square().sum()
    with full.using(None):
        assert not predict(full).requires_grad
        loss.backward()
    for parameter, gradient in zip(full.parameters, kept, strict=True):
        assert parameter.grad is not None
        assert same(parameter.grad, gradient)


def test_published_weights_act_in_another_policy(full: Policy, full_config: PolicyConfig, nudge: Nudge) -> None:
    nudge(full, 0.02)
    sampler = Policy.load(full_config)
    with torch.no_grad():
        pretrained = predict(sampler)
        sampler.load_weights(*full.weights())
        assert same(predict(sampler), predict(full))
        with sampler.using(None):
            assert same(predict(sampler), pretrained)


def test_what_is_written_is_read_back_here_and_by_diffusers(
    full: Policy, full_config: PolicyConfig, nudge: Nudge, tmp_path: Path
) -> None:
    nudge(full, 0.02)
    full.save_lora(tmp_path / "one")
    full.save_lora(tmp_path / "two")
    one, two = (tmp_path / name / FOLDER / FILE for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    other = Policy.load(full_config)
    other.load_lora(tmp_path / "one")
    assert np.array_equal(other.weights()[0], full.weights()[0])
    started = Policy.load(full_config.model_copy(update={"init_weights": str(one.parent)}))
    assert np.array_equal(started.weights()[0], full.weights()[0])
    network = UNet2DConditionModel.from_pretrained(tmp_path / "one", subfolder=FOLDER)
    for name, parameter in full._variants.parameters("policy"):
        assert same(network.get_parameter(name), parameter)
    with torch.no_grad(), started.using(None), full.using(None):
        assert same(predict(started), predict(full))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_whole_pipeline_has_it_for_its_denoiser(
    full: Policy, full_config: PolicyConfig, nudge: Nudge, tmp_path: Path, dtype: torch.dtype
) -> None:
    nudge(full, 0.02)
    full.save_lora(tmp_path)
    config = full_config.model_copy(update={"init_weights": str(tmp_path / FOLDER)})
    full_pipeline(config, dtype).save_pretrained(tmp_path / "whole")
    unet = StableDiffusionPipeline.from_pretrained(tmp_path / "whole", safety_checker=None).unet
    for name, parameter in full._variants.parameters("policy"):
        assert same(unet.get_parameter(name), parameter.detach().to(dtype).float())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"lora_rank": 4, "lora_alpha": 4},
            r"set policy\.lora_rank=null policy\.lora_alpha=null, or",
        ),
        ({"init_lora": "a/b"}, r"nothing is made of policy\.init_lora; set"),
        (
            {"dtype": "bfloat16"},
            r"policy\.dtype is bfloat16, but policy\.train=full trains all weights",
        ),
        ({"train": "lora", "init_weights": "/x"}, r"policy\.init_weights does nothing where policy\.train is lora"),
        (
            {"init_weights": "/nowhere"},
            r"There is no denoiser in /nowhere \(policy\.init_weights\).*config\.json of save_pretrained\.$",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    full_config: PolicyConfig, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        check_model(full_config.model_copy(update=settings))


def test_a_checkpoint_is_told_which_of_its_folders_it_is(
    full: Policy, full_config: PolicyConfig, tmp_path: Path
) -> None:
    full.save_lora(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"take {tmp_path / FOLDER}"):
        check_model(full_config.model_copy(update={"init_weights": str(tmp_path)}))


def test_weights_of_another_network_or_of_no_numbers_are_refused(
    full: Policy, full_config: PolicyConfig, tmp_path: Path
) -> None:
    full.save_lora(tmp_path)
    folder = tmp_path / FOLDER
    given = full_config.model_copy(update={"init_weights": str(folder)})
    tensors = load_file(folder / FILE)
    broken = {name: tensor.clone() for name, tensor in tensors.items()}
    broken["conv_in.weight"][0, 0, 0, 0] = float("nan")
    save_file(broken, folder / FILE, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"hold NaN or infinity in conv_in\.weight"):
        Policy.load(given)
    save_file({name: t for name, t in tensors.items() if name != "conv_in.bias"}, folder / FILE)
    with pytest.raises(ValueError, match=r"lack conv_in\.bias"):
        check_model(given)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(ValueError, match="is a FluxTransformer2DModel, but the model's is a UNet2DConditionModel"):
        check_model(given)
