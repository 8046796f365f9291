"""The command that makes a world: what it refuses, and that it goes on where it was stopped, to the same files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shapes import pretrain

STEPS = [f"--{stage}-steps=2" for stage in pretrain.STAGES[:-1]]


def make(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--world", "second", "--out", str(folder), *STEPS, "--pictures=100", "--images=8"]
    monkeypatch.setattr(sys, "argv", ["pretrain", *words])
    pretrain.main()


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_is_left_of_a_run_with_other_settings_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "settings.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        make(tmp_path, monkeypatch)
    assert ended.value.code == 1
    assert "is left of a run with other settings" in capsys.readouterr().err
    assert list(files(tmp_path)) == ["unfinished/settings.json"]


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "whole", monkeypatch)
    real = pretrain.fit_denoiser

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pretrain, "fit_denoiser", stop)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "stopped", monkeypatch)
    monkeypatch.setattr(pretrain, "fit_denoiser", real)
    monkeypatch.setattr(pretrain, "fit_scorer", stop)  # done is done
    make(tmp_path / "stopped", monkeypatch)
    whole = files(tmp_path / "whole")
    assert {"scorer/model.safetensors", "pipeline/unet/config.json", "summary.json"} <= whole.keys()
    assert files(tmp_path / "stopped") == whole
