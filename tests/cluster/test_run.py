"""Bad input on the command line: one line on stderr, exit status 1, and no Ray; and what a run says when it starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import cluster
from cluster.config import Config
from cluster.records.rundir import RunDirectory
from tests.support.command import Placed, main

Make = Callable[..., Config]
Refuse = Callable[..., str]

pytestmark = pytest.mark.usefixtures("no_ray")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("learner.lrr=1", "'learner.lr'"),
        ("prompts.samples=1", "at least 2"),
        ("rewards.shapes_glod.weight=1", "'shapes_gold'"),
        ("objective.name=ppodd", "'ppod'"),
        ("samplers.request_size=5", "4 does"),
        ("policy.model=/no/such/model", "/no/such/model"),
        ("policy.model=./nowhere", "nowhere"),
        ("prompts.train=missing.txt", "missing.txt"),
        ("learner.lr=[", "learner.lr"),
        ("no-such.yaml", "no-such.yaml"),
        ('folder="a\\0b"', "folder"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(
    refuse: Refuse, base: list[str], tmp_path: Path, override: str, words: str
) -> None:
    arguments = [override, *base] if override.endswith("yaml") else [*base, override]
    assert words in refuse(*arguments)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("content", "words"), [(None, "No such file"), (b"", "no prompt"), (b"\n \n", "no prompt"), (b"\xe9t\xe9", "UTF-8")]
)
def test_a_prompt_file_that_cannot_be_used_is_named(
    refuse: Refuse, base: list[str], tmp_path: Path, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "mine.txt").write_bytes(content)
    line = refuse(*base, "prompts.train=mine.txt")
    assert "mine.txt" in line
    assert words in line


def test_an_unknown_key_in_a_file_names_the_nearest(refuse: Refuse, base: list[str], tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("samplers:\n  max_stalenes: 1\n")
    line = refuse("run.yaml", *base)
    assert "'samplers.max_stalenes'" in line
    assert "'samplers.max_staleness'" in line


def test_a_run_folder_that_exists_is_not_written_over(refuse: Refuse, base: list[str], make_config: Make) -> None:
    run = RunDirectory.create(make_config("name=mine"))
    before = (run.path / "config.yaml").read_bytes()
    assert f"--resume {run.path}" in refuse(*base, "name=mine", "learner.lr=9")
    assert (run.path / "config.yaml").read_bytes() == before


def test_a_run_that_starts_says_what_it_will_do(base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Placed):
        main(*base, "name=mine", "iterations=7", "samplers.count=2")
    output = capsys.readouterr().out
    for words in (
        "7 iterations of ppod",
        "3 prompts x 4 samples = 12 images",
        "requests of 4",
        "2 samplers",
        "the combined reward is measured from the mean of its run so far: at first it is 0",
    ):
        assert words in output


def test_a_name_is_shown_as_it_is(base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Placed):
        main(*base, "name='a:b: [red]x'")
    assert "/a:b: [red]x: " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["learner.lrr=1"], ["policy.model=/no/such/model"]])
def test_the_command_itself_ends_with_one_line_and_status_one(arguments: list[str], tmp_path: Path) -> None:
    root = Path(cluster.__file__).parents[1]
    command = [sys.executable, "-m", "cluster.local", f"folder={tmp_path / 'runs'}", *arguments]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
