"""Runs that train all weights: their checkpoints are found, drawn with and handed on whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from actors.full_weights import FILE, FOLDER
from actors.policy import Policy
from cluster.config import Config, load_config
from cluster.crew.memory import estimate
from cluster.errors import ConfigError
from cluster.export import main
from cluster.trained import find
from tests.support.run_folder import make_run
from tests.support.tiny import write_config

Make = Callable[..., Config]
FULL = ("policy.train=full", "policy.lora_rank=null", "policy.lora_alpha=null")


@pytest.fixture
def run(make_config: Make) -> Path:
    """A run with averaged weights."""
    return make_run(make_config(*FULL, "policy.steps=4"), average=True)


def test_a_checkpoint_acts_with_all_its_weights(run: Path) -> None:
    own, average, bare = find(str(run)), find(str(run), average=True), find(str(run)).policy.model
    assert not own.bare
    assert own.adapter == run / "checkpoints" / "iteration-000004" / FOLDER / FILE
    assert own.checksum != average.checksum
    policy, pretrained = Policy.load(own.policy), UNet2DConditionModel.from_pretrained(bare, subfolder="unet")
    for found in (own, average):
        acting = Policy.load(found.policy)
        network = UNet2DConditionModel.from_pretrained(found.policy.init_weights)
        assert torch.equal(acting.network.conv_in.weight, network.conv_in.weight)
    with policy.using(None):
        assert torch.equal(policy.network.conv_in.weight, pretrained.conv_in.weight)
    with pytest.raises(ConfigError, match="brings its adapter with it"):
        find(str(run), ["policy.train=lora"])


def test_its_checksum_is_of_all_its_files(tiny_pipeline: Path, tmp_path: Path) -> None:
    network = UNet2DConditionModel.from_pretrained(tiny_pipeline, subfolder="unet")
    network.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    *_, last = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert last.name != "diffusion_pytorch_model.safetensors"
    settings = ["train=full", f"init_weights={tmp_path}/shards"]
    before = find(str(tiny_pipeline), settings).checksum
    assert before == find(str(tiny_pipeline), settings).checksum
    save_file({name: 1.5 * tensor for name, tensor in load_file(last).items()}, last, metadata={"format": "pt"})
    assert find(str(tiny_pipeline), settings).checksum != before


def test_it_is_exported_whole_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--format", "merged", "--out", str(tmp_path / "whole"), "--ema"]) == 0
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "whole")
    policy = Policy.load(find(str(run), average=True).policy)
    assert torch.equal(pipeline.unet.conv_out.weight, policy.network.conv_out.weight)
    assert main([str(run), "--format", "diffusers", "--out", str(tmp_path / "adapter")]) == 1
    assert "all weights were trained, which are no adapter; take --format merged." in capsys.readouterr().err


def test_its_memory_is_counted_as_copies_of_the_network(tmp_path: Path) -> None:
    file = write_config(tmp_path)
    words = ["policy.device=cuda", "policy.dtype=float32"]
    full = {n.role: n for n in estimate(load_config(file, [*words, *FULL]), on_gpu=True)}
    lora = {n.role: n for n in estimate(load_config(file, words), on_gpu=True)}
    network = full["sampler"].device["adapter"]
    assert network > 10 * lora["sampler"].device["adapter"]
    assert full["sampler"].device["networks"] == lora["sampler"].device["networks"] > network
    assert full["learner"].device["adapters and optimizer"] == 7 * network  # with an average
    assert full["learner"].device["networks"] == pytest.approx(network)
    assert np.isclose(lora["learner"].device["networks"], network)
