"""Each format is read by the library that it is for, which then draws our pictures; alpha is never the rank."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from actors.adapters import FILE
from actors.config import PolicyConfig
from actors.export import Adapter, merged_pipeline, write_comfy, write_diffusers, write_peft
from actors.lora_names import folded_transformer
from actors.policy import Policy
from tests.support.plain import pictures, plain_pictures


@pytest.fixture
def trained(policy_config: PolicyConfig, nudge: Any) -> Policy:
    """A policy without noise whose adapter has moved and has another alpha than rank."""
    changes = {"lora_rank": 2, "lora_alpha": 5, "eta": 0.0, "lora_targets": ("to_q", "to_v", "to_out.0", "conv1")}
    policy = Policy.load(policy_config.model_copy(update=changes))
    nudge(policy)
    return policy


@pytest.fixture
def adapter(policy_config: PolicyConfig, trained: Policy, tmp_path: Path) -> Adapter:
    """Of a checkpoint of that policy."""
    trained.save_lora(tmp_path / "checkpoint")
    own = {"init_lora": str(tmp_path / "checkpoint"), **dict.fromkeys(("lora_rank", "lora_alpha", "lora_targets"))}
    return Adapter.of(policy_config.model_copy(update=own))


def draw(trained: Policy, folder: str | Path, load: Callable[[Any], None] = lambda pipeline: None) -> Tensor:
    """With a pipeline of diffusers, once something is loaded into it."""
    pipeline = DiffusionPipeline.from_pretrained(folder, safety_checker=None)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)
    load(pipeline)
    return plain_pictures(pipeline, trained)


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_diffusers_draws_our_pictures_from_each_of_its_formats(
    adapter: Adapter, trained: Policy, tmp_path: Path
) -> None:
    ours, folder = pictures(trained), trained.config.model
    without = draw(trained, folder)
    assert (without - ours).abs().max() > 0.01
    write_diffusers(adapter, tmp_path / "diffusers", torch.float32)
    same(draw(trained, folder, lambda pipeline: pipeline.load_lora_weights(tmp_path / "diffusers")), ours)
    write_comfy(adapter, tmp_path / "kohya.safetensors", torch.float32)
    same(
        draw(trained, folder, lambda p: p.load_lora_weights(tmp_path, weight_name="kohya.safetensors")),
        ours,
    )
    before = {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    merged_pipeline(adapter, torch.float32).save_pretrained(tmp_path / "merged")
    same(draw(trained, tmp_path / "merged"), ours)
    assert {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()} == before


def test_peft_reads_its_format(adapter: Adapter, trained: Policy, tmp_path: Path) -> None:
    write_peft(adapter, tmp_path / "peft", torch.float32)

    def load(pipeline: Any) -> None:
        pipeline.unet = PeftModel.from_pretrained(pipeline.unet, tmp_path / "peft").base_model.model

    same(draw(trained, trained.config.model, load), pictures(trained))
    settings = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (settings["r"], settings["lora_alpha"], settings["base_model_name_or_path"]) == (2, 5, trained.config.model)


def test_a_merged_pipeline_is_a_model_like_any_other(adapter: Adapter, trained: Policy, tmp_path: Path) -> None:
    merged_pipeline(adapter, torch.float16).save_pretrained(tmp_path / "merged")
    stored = {file.parent.name: load_file(file) for file in (tmp_path / "merged").rglob("*.safetensors")}
    assert stored.keys() == {"unet", "vae", "text_encoder"}
    assert {t.dtype for tensors in stored.values() for t in tensors.values()} == {torch.float16}
    config = trained.config.model_copy(update={"model": str(tmp_path / "merged"), "dtype": "float32"})
    assert (pictures(Policy.load(config)) - pictures(trained)).abs().max() < 0.01


def test_a_pipeline_that_was_fetched_without_its_checker_is_merged(
    adapter: Adapter, trained: Policy, tmp_path: Path
) -> None:
    """A download leaves out what the policy does without, and its index still names it."""
    folder = shutil.copytree(adapter.folder, tmp_path / "fetched")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    merged_pipeline(replace(adapter, folder=folder), torch.float32).save_pretrained(tmp_path / "merged")
    same(draw(trained, tmp_path / "merged"), pictures(trained))


def test_kohyas_names_and_true_alphas(adapter: Adapter, tmp_path: Path) -> None:
    write_comfy(adapter, tmp_path / "kohya.safetensors", torch.float16)
    tensors = load_file(tmp_path / "kohya.safetensors")
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_out_0"
    own = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"
    assert torch.equal(tensors[f"{layer}.lora_down.weight"], adapter.tensors[f"{own}.lora_A.weight"].half())
    assert torch.equal(tensors[f"{layer}.lora_up.weight"], adapter.tensors[f"{own}.lora_B.weight"].half())
    assert {float(t) for name, t in tensors.items() if name.endswith(".alpha")} == {5.0}
    assert len(tensors) == len(adapter.tensors) * 3 // 2


def test_names_of_transformers_have_the_scale_in_the_second_factor(adapter: Adapter) -> None:
    named = folded_transformer(adapter.tensors, adapter.shape)
    for name, tensor in adapter.tensors.items():
        assert torch.equal(named[f"transformer.{name}"], tensor * (2.5 if ".lora_B." in name else 1.0))


def test_what_was_exported_can_be_started_from(
    adapter: Adapter, trained: Policy, policy_config: PolicyConfig, tmp_path: Path
) -> None:
    write_diffusers(adapter, tmp_path / "diffusers", torch.float32)
    assert (tmp_path / "diffusers" / FILE).read_bytes()
    write_peft(adapter, tmp_path / "peft", torch.float32)
    write_comfy(adapter, tmp_path / "kohya.safetensors", torch.float32)
    nothing = dict.fromkeys(("lora_rank", "lora_alpha", "lora_targets"))
    for source in ("diffusers", "peft", "kohya.safetensors"):
        config = policy_config.model_copy(update={"init_lora": str(tmp_path / source), "eta": 0.0, **nothing})
        policy = Policy.load(config)
        assert policy.lora[:2] == (2, 5)
        torch.testing.assert_close(pictures(policy), pictures(trained), atol=1e-6, rtol=0)
