"""Adapters of transformers are read by the names of diffusers, and nothing is loaded in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.adapters import FILE
from actors.config import PolicyConfig
from actors.model_check import check_model
from actors.policy import Policy
from tests.support.tiny_flow import make_sd3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sd3(tmp_path_factory.mktemp("sd3") / "model")


@pytest.mark.parametrize("prefix", ["transformer.", "", "diffusion_model."])
def test_the_names_of_diffusers_are_read_whatever_is_before_them(
    model: Path, nudge: Callable[[Policy], None], tmp_path: Path, prefix: str
) -> None:
    config = PolicyConfig(model=str(model), device="cpu", lora_rank=2, lora_alpha=2)
    policy = Policy.load(config)
    nudge(policy)
    policy.save_lora(tmp_path)
    named = {key.replace("transformer.", prefix, 1): t for key, t in load_file(tmp_path / FILE).items()}
    alphas = {
        key.replace("lora_A.weight", "alpha"): torch.tensor(1.0) for key in named if key.endswith("lora_A.weight")
    }
    save_file(named, tmp_path / "plain.safetensors")
    save_file(named | alphas, tmp_path / "alpha.safetensors")
    for name, factor in (("plain", 1.0), ("alpha", 0.5)):
        given = config.model_copy(update={"init_lora": str(tmp_path / f"{name}.safetensors")})
        assert check_model(given) is not None
        flat, index = Policy.load(given).weights()
        scale = np.concatenate(
            [np.full(int(np.prod(shape)), factor if "lora_B" in key else 1.0, np.float32) for key, shape in index]
        )
        np.testing.assert_allclose(flat, policy.weights()[0] * scale, rtol=1e-6)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("lora_transformer_nowhere_to_q.lora_A.weight", "no layer of a SD3Transformer2DModel"),
        ("unet.mid_block.attentions.0.to_q.lora_A.weight", "nothing in it is of the SD3Transformer2DModel"),
        ("transformer.transformer_blocks.77.attn.to_q.lora_A.weight", "init_lora"),
    ],
)
def test_an_adapter_of_something_else_is_refused(model: Path, tmp_path: Path, key: str, said: str) -> None:
    save_file({key: torch.zeros(2, 8)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=said) as caught:
        check_model(PolicyConfig(model=str(model), init_lora=str(tmp_path / "x.safetensors")))
    assert str(caught.value).endswith(".")
