"""What is drawn: its key, its base model, and the noise of the crossed design."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.config import PolicyConfig
from actors.rollout import noise
from cluster.matrix.draws import Draw, crossed_requests, plain_requests, without_adapter
from cluster.trained import Trained
from rewards.prompt import Prompt

PROMPTS = ("a", "b")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A file that stands for an adapter."""
    path = tmp_path / "adapter.safetensors"
    path.write_bytes(b"one")
    return path


def key(prompts: tuple[str, ...] = PROMPTS, samples: int = 2, size: int = 4, seed: int = 0, **policy: Any) -> str:
    model = Trained("any", PolicyConfig(**policy))
    return Draw(model, plain_requests(prompts, samples, size, seed, 10)).key


def test_a_key_is_of_all_that_decides_the_pictures_and_of_nothing_else(adapter: Path) -> None:
    others = [
        key(("a", "c")), key(samples=3), key(size=2), key(seed=1), key(guidance=3), key(steps=20), key(height=64),
        key((Prompt("a", {"colour": "red"}), "b")), key(init_lora=str(adapter)),
    ]  # fmt: skip
    assert len({key(), *others}) == 10
    assert key(checkpointing=True) == key()
    before = key(init_lora=str(adapter))
    moved = adapter.with_name("moved.safetensors")
    moved.write_bytes(b"one")
    assert key(init_lora=str(moved)) == before
    adapter.write_bytes(b"two")
    assert key(init_lora=str(adapter)) != before


def test_the_base_draws_with_the_same_settings_and_no_adapter(adapter: Path) -> None:
    model = Trained("mine", PolicyConfig(init_lora=str(adapter), guidance=3, adapted_steps=5, lora_rank=2))
    base = without_adapter(model)
    assert base.bare
    assert base.policy == PolicyConfig(guidance=3)
    assert without_adapter(base) == base


def test_all_prompts_of_a_crossed_design_begin_from_the_same_noise_and_no_chain_goes_like_another() -> None:
    keys = np.concatenate([request.keys for request in crossed_requests(PROMPTS, 3, 2, 5, 0)])
    first, chain = (noise(keys, step, (4,)).reshape(2, 3, 2, 4) for step in (0, 1))
    assert all(first[prompt, :, number].equal(first[0, :, 0]) for prompt in (0, 1) for number in (0, 1))
    assert len(first.reshape(-1, 4).unique(dim=0)) == 3
    assert len(chain.reshape(-1, 4).unique(dim=0)) == 12
    asked = [text for request in crossed_requests(PROMPTS, 3, 2, 5, 0) for text in request.prompts]
    assert asked == ["a"] * 6 + ["b"] * 6
