"""What a run was given: its own prompts wherever it goes, and a seal that shows every change."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cluster.config import Config
from cluster.errors import ConfigError
from cluster.prompts import read_prompts
from cluster.records.given import keep_prompts, load, read, save

Make = Callable[..., Config]


@pytest.fixture
def folder(make_config: Make, tmp_path: Path) -> Path:
    """A run's folder."""
    config = make_config("learner.lr=3e-4", "iterations=4")
    save(keep_prompts(config, tmp_path / "run"), tmp_path / "run")
    return tmp_path / "run"


def test_the_run_keeps_the_prompts_that_it_began_with(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("another prompt\n")
    (tmp_path / "held_out.txt").unlink()
    kept = load(folder).prompts
    assert read_prompts(kept.train) == ("a red circle", "a blue square", "a green cross")
    assert read_prompts(kept.held_out) == ("a red cross", "a blue circle")


def test_prompt_files_are_kept_byte_for_byte_under_their_own_names(make_config: Make, tmp_path: Path) -> None:
    content = '\ufeff{"prompt": "a cat", "count": 3}\r\n'.encode()
    (tmp_path / "mine.jsonl").write_bytes(content)
    kept = keep_prompts(make_config(f"prompts.train={tmp_path / 'mine.jsonl'}"), tmp_path / "run")
    assert kept.prompts.train == str(tmp_path / "run" / "prompts" / "train" / "mine.jsonl")
    assert Path(kept.prompts.train).read_bytes() == content


def test_an_embedded_list_is_kept_too(make_config: Make, tmp_path: Path) -> None:
    kept = keep_prompts(make_config("prompts.train=shapes:hard"), tmp_path / "run")
    assert read_prompts(kept.prompts.train) == read_prompts("shapes:hard")


def test_a_folder_that_was_moved_reads_its_own_prompts(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / 'else where: [a=b] "c"' / "run"
    moved.parent.mkdir()
    shutil.move(folder, moved)
    assert read_prompts(load(moved).prompts.train)[0] == "a red circle"
    assert Path(load(moved).prompts.train).is_relative_to(moved)


@pytest.mark.parametrize("name", ["café.jsonl", "a long name " * 12 + ".jsonl"])
def test_a_start_image_beside_the_prompts_is_not_taken_for_them(name: str, make_config: Make, tmp_path: Path) -> None:
    """YAML escapes and folds names."""
    Image.new("RGB", (16, 16)).save(tmp_path / "red.png")
    (tmp_path / name).write_text('{"prompt": "a cat", "image": "red.png", "strength": 0.6}\n')
    save(keep_prompts(make_config(f"prompts.train={tmp_path / name}"), tmp_path / "run"), tmp_path / "run")
    assert Path(read(tmp_path / "run").prompts.train).name == name
    assert Path(load(tmp_path / "run").prompts.train).name == name


def test_settings_can_be_given_anew(folder: Path) -> None:
    changed = load(folder, ["iterations=9"])
    save(changed, folder)
    assert load(folder).iterations == 9
    assert load(folder).learner.lr == 3e-4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_change_of_a_byte_is_noticed(folder: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
    content = path.read_bytes()
    start = content.index(b"\n") + 1 if path.name == "config.yaml" else 0  # the seal itself may be removed on purpose
    position = data.draw(st.integers(start, len(content) - 1))
    try:
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        with pytest.raises(ConfigError, match=r"not what the run began with; put back|cannot be read"):
            load(folder)
        path.write_bytes(content[:position])
        with pytest.raises(ConfigError):
            load(folder)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("content", ["", "\n", "  \n\n"])
def test_an_emptied_configuration_is_not_that_of_the_defaults(folder: Path, content: str) -> None:
    (folder / "config.yaml").write_text(content)
    with pytest.raises(ConfigError, match="is empty; put back"):
        load(folder)


@pytest.mark.parametrize("what", ["prompts", "prompts/train"])
def test_missing_prompts_are_noticed(folder: Path, what: str) -> None:
    shutil.rmtree(folder / what)
    with pytest.raises(ConfigError, match="not what the run began with"):
        load(folder)


def test_a_change_that_is_meant_is_accepted_without_the_seal(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = folder / "config.yaml"
    text = path.read_text().partition("\n")[2]
    path.write_text(text.replace("iterations: 4", "iterations: 5"))
    with caplog.at_level(logging.WARNING):
        assert load(folder).iterations == 5
    assert "no seal" in caplog.text


def test_looking_needs_neither_model_nor_rewards_nor_the_original_prompts(
    make_config: Make, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    shutil.copytree(tiny_pipeline, tmp_path / "model")
    (tmp_path / "my_own_reward.py").write_text("def own(images, prompts):\n    return images.mean(dim=(1, 2, 3))\n")
    config = make_config(
        "rewards={own: {kind: 'my_own_reward:own'}}", "evaluation.features=null", f"policy.model={tmp_path / 'model'}"
    )
    kept = keep_prompts(config, tmp_path / "run")
    save(kept, tmp_path / "run")
    for gone in ("model", "my_own_reward.py", "train.txt", "held_out.txt"):
        (tmp_path / gone).rename(tmp_path / f"no more {gone}")
    assert read(tmp_path / "run") == kept
    with pytest.raises(ConfigError):
        load(tmp_path / "run")
