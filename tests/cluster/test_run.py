"""Bad input on the command line: one line on stderr, exit status 1, and no Ray."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

import cluster
import cluster.run
from cluster.config import Config
from cluster.rundir import RunDirectory
from cluster.stopping import REQUESTS, Stopped
from learner import checkpoint

Make = Callable[..., Config]
Refuse = Callable[..., str]


class Placed(BaseException):
    """The run got as far as starting Ray; no `Exception`, which the command would put into a sentence."""


def place(config: Config) -> NoReturn:
    raise Placed


def main(*arguments: str, place: Any = place) -> int:
    return cluster.run.main("python -m cluster.local", "Train.", place, arguments)


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray must not start; a Ray that other tests started must not stop; and nothing is written here."""
    monkeypatch.setattr(cluster.run.ray, "init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.setattr(cluster.run.ray, "shutdown", lambda: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs with arguments that must be refused; returns the one line on stderr."""

    def run(*arguments: str) -> str:
        assert main(*arguments, place=lambda config: pytest.fail("the run was started")) == 1
        output = capsys.readouterr().err
        assert output.startswith("error: ")
        assert output.count("\n") == 1
        assert output.endswith("\n")
        return output

    return run


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


@pytest.fixture
def run(make_config: Make) -> RunDirectory:
    """A run of 8 iterations with checkpoints of iterations 0 and 5."""
    run = RunDirectory.create(make_config("name=mine", "iterations=8"))
    for iteration in (0, 5):
        with checkpoint.writing(run.checkpoints, iteration) as folder:
            (folder / "learner.pt").write_bytes(b"weights")
    return run


def damage(run: RunDirectory, iteration: int, *, torn: bool) -> None:
    path = run.checkpoints / f"iteration-{iteration:06d}" / "learner.pt"
    if torn:
        path.unlink()
    else:
        path.write_bytes(b"weighty")


@pytest.mark.parametrize("torn", [True, False])
def test_resuming_is_refused_when_every_checkpoint_is_damaged(refuse: Refuse, run: RunDirectory, torn: bool) -> None:
    for iteration in (0, 5):
        damage(run, iteration, torn=torn)
    assert str(run.checkpoints) in refuse("--resume", str(run.path))


@pytest.mark.parametrize("torn", [True, False])
def test_resuming_passes_over_a_damaged_checkpoint(run: RunDirectory, torn: bool) -> None:
    damage(run, 5, torn=torn)
    with pytest.raises(Placed):
        main("--resume", str(run.path))


def test_resuming_a_run_that_was_killed_in_its_first_checkpoint_starts_it_over(make_config: Make) -> None:
    run = RunDirectory.create(make_config("name=mine"))
    (run.checkpoints / ".iteration-000000.123").mkdir(parents=True)
    with pytest.raises(Placed):
        main("--resume", str(run.path))


def test_resuming_takes_the_configuration_of_the_run_and_no_other(refuse: Refuse, run: RunDirectory) -> None:
    assert "only iterations=, checkpoints., failures. may be given anew" in refuse(
        "learner.lr=1", "--resume", str(run.path)
    )
    seen: list[Config] = []

    def remember(config: Config) -> NoReturn:
        seen.append(config)
        raise Placed

    with pytest.raises(Placed):
        main("--resume", str(run.path), place=remember)
    assert seen[0].name == "mine"
    assert seen[0].batch_size == 12


@pytest.mark.parametrize("content", [None, "learner: {lrr: 1}\n", "learner: ["])
def test_resuming_is_refused_without_a_usable_run(refuse: Refuse, tmp_path: Path, content: str | None) -> None:
    (tmp_path / "mine").mkdir()
    if content is not None:
        (tmp_path / "mine" / "config.yaml").write_text(content)
    refuse("--resume", "mine")


def interrupt(config: Config) -> NoReturn:
    raise KeyboardInterrupt


def test_a_run_that_is_interrupted_before_it_began_leaves_nothing(
    base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(*base, "name=mine", place=interrupt) == 130
    assert capsys.readouterr().err == "stopped by SIGINT before the run began; nothing is left of it\n"
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_run_says_how_to_go_on(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--resume", str(run.path), place=interrupt) == 130
    assert capsys.readouterr().err == (
        f"stopped by SIGINT at {run.checkpoints}/iteration-000005; "
        f"continue with: python -m cluster.local --resume {run.path}\n"
    )


@pytest.mark.parametrize("number", REQUESTS)
def test_a_run_that_was_stopped_says_where_its_checkpoint_is(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    def stop(config: Config) -> NoReturn:
        raise Stopped(number)

    assert main("--resume", str(run.path), place=stop) == 128 + number
    assert capsys.readouterr().err == (
        f"stopped by {number.name} at {run.checkpoints}/iteration-000005; "
        f"continue with: python -m cluster.local --resume {run.path}\n"
    )


def test_a_run_that_starts_says_what_it_will_do(base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Placed):
        main(*base, "name=mine", "iterations=7", "samplers.count=2")
    output = capsys.readouterr().out
    for words in ("7 iterations of ppod", "3 prompts x 4 samples = 12 images", "requests of 4", "2 sampler(s)"):
        assert words in output


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["learner.lrr=1"], ["policy.model=/no/such/model"]])
def test_the_command_itself_ends_with_one_line_and_status_one(arguments: list[str], tmp_path: Path) -> None:
    root = Path(cluster.__file__).parents[1]
    command = [sys.executable, "-m", "cluster.local", f"folder={tmp_path / 'runs'}", *arguments]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
