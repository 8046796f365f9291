"""Every command and benchmark answers --help, and refuses what it does not know in one line."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from cluster.arguments import Parser
from shapes.arguments import positive

ROOT = Path(__file__).parents[2]
SIDES = {f"benchmarks.peers.{side}" for side in ("diffusers_dpo", "ours", "ours_dpo", "plain_ddpo", "trl_ddpo")}
INTERNAL = {"cluster.crew.janitor", "benchmarks.step_worker", *SIDES}  # started by others, not typed
PACKAGES = ("cluster", "benchmarks", "rewards", "shapes")
COMMANDS = [
    module
    for package in PACKAGES
    for file in sorted((ROOT / package).rglob("*.py"))
    if re.search(r'^if __name__ == "__main__":', file.read_text(), re.MULTILINE)
    and (module := ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")) not in INTERNAL
]


def test_every_command_parses_its_arguments() -> None:
    """First of all, because the tests below would carry out one that does not."""
    for module in COMMANDS:
        file = ROOT.joinpath(*module.split("."))
        text = (file / "__main__.py" if file.is_dir() else file.with_suffix(".py")).read_text()
        assert re.search(
            r"parse_args\(|parse_intermixed_args\(|_config\(|short_run\(|import main$", text, re.MULTILINE
        ), module


def run(module: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=False)
    return int(ended.value.code or 0)


def test_the_commands_are_found() -> None:
    assert {"cluster.local", "cluster.train", "benchmarks.chaos", "rewards.serve", "rewards.environments"} <= set(
        COMMANDS
    )


@pytest.mark.parametrize("module", COMMANDS)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_command_has_help(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(module, "--help", monkeypatch=monkeypatch) == 0
    said = capsys.readouterr().out
    assert f"usage: python -m {module}" in said
    assert len(said.splitlines()) > 4


@pytest.mark.parametrize("module", COMMANDS)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_command_refuses_an_option_that_it_does_not_have(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(module, "--no-such-option", monkeypatch=monkeypatch) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("error: ")
    assert said.endswith(f"python -m {module} --help says what there is.")


def test_a_refusal_is_one_line_whatever_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        Parser("cluster.local", "Train.").parse_args(["--x\x1b[31m\n"])
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "\x1b" not in said


@pytest.mark.parametrize("typed", ["0", "-3", "1.5", "many", "", "9" * 5000, "²"])
def test_a_count_is_a_whole_number_from_one_on(typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = Parser("benchmarks.soak", "Soak.")
    parser.add_argument("--iterations", type=positive)
    assert parser.parse_args(["--iterations", "12"]).iterations == 12
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([f"--iterations={typed}"])
    assert ended.value.code == 1
    assert "is not a whole number from 1" in capsys.readouterr().err
