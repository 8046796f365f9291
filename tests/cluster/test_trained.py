"""What a word of the command line may name: runs, their checkpoints, bare models; and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from actors.policy import Policy
from cluster.config import Config
from cluster.errors import ConfigError
from cluster.trained import find
from learner.checkpoint import CheckpointError
from shapes import PIPELINES
from tests.support.run_folder import make_run

Make = Callable[..., Config]


@pytest.fixture
def run(make_config: Make) -> Path:
    """A run with averaged weights."""
    return make_run(make_config("policy.lora_rank=3", "policy.lora_alpha=5", "policy.steps=4"), average=True)


def test_a_run_is_its_newest_checkpoint_with_its_own_adapter(run: Path, make_config: Make) -> None:
    found = find(str(run))
    assert found.checkpoint == run / "checkpoints" / "iteration-000004"
    assert found.name == f"{run.name}-000004"
    assert found.run is not None
    assert found == find(str(found.checkpoint))
    trained = Policy.load(make_config("policy.lora_rank=3", "policy.lora_alpha=5").policy)
    trained.load_lora(found.checkpoint)
    policy = Policy.load(found.policy)
    assert policy.lora[:2] == trained.lora[:2] == (3, 5)
    assert np.array_equal(policy.weights()[0], trained.weights()[0])
    assert policy.config.steps == 4
    trained.load_lora(found.checkpoint / "average")
    averaged = find(str(run), average=True)
    assert np.array_equal(Policy.load(averaged.policy).weights()[0], trained.weights()[0])
    assert averaged.checksum != found.checksum


def test_settings_change_how_it_acts(run: Path) -> None:
    policy = find(str(run), ["guidance=1.5", "policy.steps=7", "negative_prompt=a b=c"]).policy
    assert (policy.guidance, policy.steps, policy.negative_prompt) == (1.5, 7, "a b=c")


def test_an_adapter_that_the_run_began_with_need_not_be_there_any_more(make_config: Make, tmp_path: Path) -> None:
    first = make_run(make_config("name=first"))
    shutil.copytree(first / "checkpoints" / "iteration-000004", tmp_path / "given")
    second = make_run(make_config("name=second", f"policy.init_lora={tmp_path / 'given'}"))
    shutil.rmtree(tmp_path / "given")
    Policy.load(find(str(second)).policy)


def test_a_bare_model_is_itself(tiny_pipeline: Path) -> None:
    found = find(str(tiny_pipeline), ["steps=3"])
    assert (found.checkpoint, found.adapter, found.checksum, found.run) == (None, None, None, None)
    assert (found.name, found.policy.model, found.policy.steps) == (tiny_pipeline.name, str(tiny_pipeline), 3)


@pytest.mark.parametrize("name", PIPELINES)
def test_the_embedded_models_act_as_in_their_own_configuration(name: str) -> None:
    found = find(name)
    assert (found.name, found.policy.model) == (name, str(PIPELINES[name]))
    assert (found.policy.steps, found.policy.guidance) == (12, 2.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["guidnce=3"], r"no setting 'policy\.guidnce'; did you mean 'policy\.guidance'"),
        (["steps=many"], r"'policy\.steps' is 'many'"),
        (["lora_rank=4"], "brings its adapter with it"),
        (["guidance=.inf"], "not a finite number"),
    ],
)
def test_settings_that_cannot_be_are_refused(run: Path, settings: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        find(str(run), settings)


def test_what_is_neither_run_nor_checkpoint_nor_model_is_refused(run: Path, make_config: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no checkpoint"):
        find(str(tmp_path))
    with pytest.raises(ConfigError, match="no average"):
        find(str(make_run(make_config("name=plain"))), average=True)
    with pytest.raises(ConfigError, match="no average"):
        find("shapes", average=True)
    folder = run / "checkpoints" / "iteration-000004"
    shutil.copytree(folder, tmp_path / "alone" / "x" / "taken")
    with pytest.raises(ConfigError, match="of which model"):
        find(str(tmp_path / "alone" / "x" / "taken"))
    model = find(str(run)).policy.model
    assert find(str(tmp_path / "alone" / "x" / "taken"), [f"model={model}"]).name == "taken"
    with (folder / "pytorch_lora_weights.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(CheckpointError, match="usable checkpoint"):
        find(str(run))
    with pytest.raises(CheckpointError, match="damaged"):
        find(str(folder))
