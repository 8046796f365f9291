"""The adapter's file: one name, the same bytes, and nothing else is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig

from actors.adapters import FILE, write_adapter
from actors.config import PolicyConfig
from actors.model_check import check_model
from actors.policy import Policy

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1"]
WRITE = f"""
import sys, torch; from pathlib import Path; from peft import LoraConfig; from actors.adapters import write_adapter
write_adapter(Path(sys.argv[1]), {{"b.lora_A.weight": torch.ones(2, 3)}}, LoraConfig(target_modules={TARGETS}), "unet")
"""


def test_the_header_has_one_entry_and_its_sets_are_sorted(tmp_path: Path) -> None:
    write_adapter(tmp_path, {"b.lora_A.weight": torch.ones(2, 3)}, LoraConfig(r=2, target_modules=TARGETS), "unet")
    data = (tmp_path / FILE).read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert len(header["__metadata__"]) == 1
    settings = json.loads(next(iter(header["__metadata__"].values())))
    assert settings["unet.target_modules"] == sorted(TARGETS)
    assert settings["unet.r"] == 2


@pytest.mark.slow
def test_every_process_writes_the_same_bytes(tmp_path: Path) -> None:
    for seed in ("1", "2", "3"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", WRITE, str(tmp_path / seed)], env=environment, check=True)
    assert len({(tmp_path / seed / FILE).read_bytes() for seed in ("1", "2", "3")}) == 1


@pytest.mark.parametrize("name", ["old_", "0", "a", "zz_"])
def test_only_the_file_of_that_name_is_read(policy: Policy, tmp_path: Path, name: str) -> None:
    policy.save_lora(tmp_path)
    right = policy.weights()[0]
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter += 1
    policy.save_lora(tmp_path / "other")
    (tmp_path / "other" / FILE).rename(tmp_path / f"{name}{FILE}")
    policy.load_lora(tmp_path)
    assert np.array_equal(policy.weights()[0], right)
    (tmp_path / FILE).unlink()
    with pytest.raises(FileNotFoundError, match=FILE):
        policy.load_lora(tmp_path)


def test_an_adapter_of_another_policy_is_refused_and_changes_nothing(
    policy_config: PolicyConfig, policy: Policy, tmp_path: Path
) -> None:
    for number, changes in enumerate(({"lora_rank": 4}, {"lora_targets": ("to_q",)})):
        Policy.load(policy_config.model_copy(update=changes)).save_lora(tmp_path / str(number))
        before = policy.weights()[0]
        with pytest.raises(ValueError, match="another policy"):
            policy.load_lora(tmp_path / str(number))
        assert np.array_equal(policy.weights()[0], before)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_an_adapter_that_holds_no_number_is_refused_and_changes_nothing(
    policy: Policy, policy_config: PolicyConfig, tmp_path: Path, value: float
) -> None:
    right = policy.weights()[0]
    with torch.no_grad():
        policy.parameters[3].view(-1)[-1] = value
    policy.save_lora(tmp_path)
    name = policy.weights()[1][3][0]
    other = Policy.load(policy_config)
    for use in (
        lambda: other.load_lora(tmp_path),
        lambda: Policy.load(policy_config.model_copy(update={"init_lora": str(tmp_path)})),
        lambda: check_model(policy_config.model_copy(update={"init_lora": str(tmp_path)})),
    ):
        with pytest.raises(ValueError, match=rf"{tmp_path / FILE} holds NaN or infinity in unet\.{name}, "):
            use()
    assert np.array_equal(other.weights()[0], right)
