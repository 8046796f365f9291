"""Environments of rewards: found, built with what the file names and no more, and the rewards checked in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from rewards.environments import FOLDER, build, locate
from rewards.environments.__main__ import main

ISOLATED = Path(__file__).parent / "isolated"


@pytest.mark.parametrize("name", ["image_reward", "hpsv2", "ocr"])
def test_an_own_environment_is_named_and_pinned(name: str) -> None:
    lines = [line for line in locate(name).read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert all("==" in line for line in lines)


def test_a_path_is_a_requirements_file_or_an_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    assert locate("mine.txt") == tmp_path / "mine.txt"
    assert locate(sys.executable) == Path(sys.executable)  # and not what it links to, which is another environment


@pytest.mark.parametrize("environment", ["image_rewards", "mine.txt", ".", "", "README.md"])
def test_what_is_neither_is_refused(environment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").touch()
    with pytest.raises(FileNotFoundError, match="one of hpsv2, image_reward, ocr, a requirements file"):
        locate(environment)


def test_a_folder_that_is_a_file_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["rewards.environments", "hpsv2", str(tmp_path / "file" / "inside")])
    assert main() == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"error: {tmp_path}/file/inside cannot be written to (")


@pytest.mark.slow
def test_a_requirement_that_cannot_be_had_ends_with_a_message(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("not a requirement\n")
    command = [sys.executable, "-m", "rewards.environments", tmp_path / "bad.txt", tmp_path / "environment"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1
    assert "Invalid requirement" in found.stderr
    assert found.stderr.splitlines()[-1].startswith(f"error: pip could not install {tmp_path}/bad.txt")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["image_reward", "hpsv2", "ocr"])
def test_a_reward_equals_its_package_in_its_environment(name: str, tmp_path: Path) -> None:
    python = build(name, tmp_path / "environment")
    (packages,) = (tmp_path / "environment").glob("lib/python*/site-packages")
    installed = {folder.name.partition("-")[0].replace("_", "-") for folder in packages.glob("*.dist-info")}
    named = {line.partition("==")[0] for line in locate(name).read_text().splitlines() if not line.startswith("#")}
    assert installed == named  # in particular no torch
    options = ["-p", "no:cacheprovider", "-o", "addopts=", f"--confcutdir={ISOLATED}"]
    command = [python, "-m", "pytest", *options, ISOLATED / f"check_{name}.py"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_environment_has_its_checks() -> None:
    checks = {file.stem for file in ISOLATED.glob("check_*.py")}
    assert checks == {f"check_{file.stem}" for file in FOLDER.glob("*.txt")}
