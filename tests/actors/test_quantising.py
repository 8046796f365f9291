"""Quantised denoisers: what diffusers is told, what they need, and what is refused. None is loaded: it takes a GPU."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from actors import devices
from actors.config import PolicyConfig
from actors.families.sd import StableDiffusion
from cluster.config import load_config
from cluster.crew.memory import estimate
from cluster.errors import ConfigError
from tests.support.tiny import write_config


class Told(Exception):
    """Stops a pipeline from being loaded."""


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "find_spec", lambda name: object())


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_the_denoiser_alone_is_loaded_quantised(
    policy_config: PolicyConfig, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **arguments: Any) -> None:
        raise Told(arguments)

    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda of: "0.48.0" if of == "bitsandbytes" else version(of))
    monkeypatch.setattr(StableDiffusionPipeline, "from_pretrained", refuse)
    config = policy_config.model_copy(update={"quantise": kind})
    with pytest.raises(Told) as told:
        StableDiffusion.load(Path(config.model), config, torch.device("cuda"), torch.bfloat16)
    mapping = told.value.args[0]["quantization_config"].quant_mapping
    assert list(mapping) == ["unet"]
    assert (mapping["unet"].load_in_8bit, mapping["unet"].load_in_4bit) == (kind == "int8", kind == "nf4")
    if kind == "nf4":
        assert mapping["unet"].bnb_4bit_quant_type == "nf4"
        assert mapping["unet"].bnb_4bit_compute_dtype == torch.bfloat16


def test_what_is_not_there_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    word = "policy.quantise=nf4"
    with pytest.raises(ConfigError, match=r"policy\.quantise=nf4 needs a GPU, and the policy is on cpu; set"):
        load_config(None, [word, "policy.device=cpu"])
    monkeypatch.setattr(devices, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs bitsandbytes, which is not installed; run `pip install bitsandbytes`"):
        load_config(None, [word, "policy.device=cuda"])


def test_weights_that_are_trained_are_not_quantised(installed: None) -> None:
    with pytest.raises(ConfigError, match=r"policy\.quantise=int8 is for frozen weights, but policy\.train=full"):
        load_config(None, ["policy.quantise=int8", "policy.device=cuda", "policy.train=full"])


def test_its_memory_is_counted_by_its_linear_layers(installed: None, tmp_path: Path) -> None:
    file = write_config(tmp_path)

    def networks(*words: str) -> float:
        needs = estimate(load_config(file, ["policy.device=cuda", *words]), on_gpu=True)
        return {need.role: need for need in needs}["learner"].device["networks"]

    whole, eight, four = networks(), networks("policy.quantise=int8"), networks("policy.quantise=nf4")
    assert whole > eight > four > 0
    assert (whole - four) / (whole - eight) == pytest.approx(1.5)  # 2 bytes to 1, or to a half
