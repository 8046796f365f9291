"""The command that hands a run's adapter on: what it writes, what it refuses, and that it leaves nothing half."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

import cluster.export
from actors.adapters import FILE
from cluster.config import Config
from cluster.export import main
from tests.support.run_folder import make_run

Make = Callable[..., Config]


@pytest.fixture
def run(make_config: Make) -> Path:
    """A run with averaged weights, alpha twice the rank."""
    return make_run(make_config("policy.lora_rank=2", "policy.lora_alpha=4"), average=True)


def test_the_newest_checkpoint_is_written_in_the_format_that_is_asked_for(run: Path, tmp_path: Path) -> None:
    """Of weights, average and another number format."""
    trained = load_file(run / "checkpoints" / "iteration-000004" / FILE)
    averaged = load_file(run / "checkpoints" / "iteration-000004" / "average" / FILE)
    for name, expected, words in (
        ("own", trained, []),
        ("average", averaged, ["--ema"]),
        ("half", {key: t.half() for key, t in trained.items()}, ["--dtype", "float16"]),
    ):
        assert main([str(run), "--format", "diffusers", "--out", str(tmp_path / name), *words]) == 0
        found = load_file(tmp_path / name / FILE)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
    for kind, out, there in (
        ("peft", "peft", "adapter_model.safetensors"),
        ("kohya", "kohya.safetensors", ""),
        ("merged", "merged", "model_index.json"),
    ):
        assert main([str(run), "--format", kind, "--out", str(tmp_path / "new" / out)]) == 0
        assert (tmp_path / "new" / out / there).is_file()
    DiffusionPipeline.from_pretrained(tmp_path / "new" / "merged")
    assert not list(tmp_path.rglob(".*"))


def test_an_export_says_where_its_pictures_will_be_others(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(run), "--format", "diffusers", "--out"]
    assert main([*words, str(tmp_path / "all")]) == main([*words, str(tmp_path / "same"), "adapted_steps=50"]) == 0
    assert "adapted_steps" not in capsys.readouterr().out
    assert main([*words, str(tmp_path / "some"), "adapted_steps=40"]) == 0
    assert "in some steps of the chain alone (policy.adapted_steps=40)" in capsys.readouterr().out
    assert (tmp_path / "some" / FILE).read_bytes() == (tmp_path / "all" / FILE).read_bytes()


def test_any_adapter_is_converted(run: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    first = ["--format", "kohya", "--out", str(tmp_path / "kohya.safetensors")]
    assert main([str(run), *first]) == 0
    words = [str(tiny_pipeline), f"init_lora={tmp_path / 'kohya.safetensors'}", "--format", "diffusers"]
    assert main([*words, "--out", str(tmp_path / "back")]) == 0
    found = load_file(tmp_path / "back" / FILE)
    expected = load_file(run / "checkpoints" / "iteration-000004" / FILE)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "kohya", "--out", "folder"], "ends in .safetensors"),
        (["--format", "peft", "--out", "x.safetensors"], "a folder"),
        (["--format", "onnx", "--out", "x"], "invalid choice: 'onnx'"),
        (["--format", "peft", "--out", "taken"], "is there already"),
        (["--format", "peft", "--out", "file/x"], "cannot be written to: "),
        (["--format", "peft", "--out", "x", "lora_rank=3"], "brings its adapter with it"),
    ],
)
def test_bad_words_are_refused_in_one_line(
    run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any, words: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.iterdir())
    try:
        status = main([str(run), *words])
    except SystemExit as end:
        status = int(str(end.code))
    error = capsys.readouterr().err
    assert status == 1
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_without_an_adapter_has_nothing_to_hand_on(tiny_pipeline: Path, tmp_path: Path, capsys: Any) -> None:
    assert main([str(tiny_pipeline), "--format", "peft", "--out", str(tmp_path / "x")]) == 1
    assert "has no adapter to hand on" in capsys.readouterr().err


def test_what_fails_leaves_nothing_behind(run: Path, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    def fails(adapter: Any, folder: Path, dtype: torch.dtype) -> None:
        folder.mkdir()
        (folder / "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(cluster.export._FORMATS, "peft", fails)
    assert main([str(run), "--format", "peft", "--out", str(tmp_path / "out" / "x")]) == 1
    assert "cannot be written to: No space left" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []
