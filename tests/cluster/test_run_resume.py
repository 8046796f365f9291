"""What `--resume` goes on with, wherever it was moved, and what it refuses."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from cluster.config import Config
from cluster.records.rundir import RunDirectory
from tests.support.command import Placed, main

Make = Callable[..., Config]
Refuse = Callable[..., str]

pytestmark = pytest.mark.usefixtures("no_ray")


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
    assert "only iterations=, checkpoints., failures., guard., loggers=, data.path= may be given anew" in refuse(
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


def test_a_finished_run_says_so_at_once(finished: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--resume", str(finished.path), place=lambda config: pytest.fail("the run was started")) == 0
    said = capsys.readouterr().out
    assert f"{finished.path} is finished" in said
    assert f"report: {finished.path / 'report.html'}" in said


def test_a_finished_run_is_extended_wherever_it_was_moved(finished: RunDirectory, tmp_path: Path) -> None:
    moved = finished.path.rename(tmp_path / "moved")
    seen: list[Config] = []

    def begin(config: Config) -> NoReturn:
        seen.append(config)
        raise Placed

    with pytest.raises(Placed):
        main("--resume", str(moved), "iterations=6", "failures.max_deaths=3", place=begin)
    assert (seen[0].iterations, seen[0].failures.max_deaths) == (6, 3)
    assert Path(seen[0].prompts.train).is_relative_to(moved)
    assert RunDirectory(moved).config.iterations == 2  # kept only when there is a crew


def test_a_run_cannot_be_made_shorter_than_it_is(refuse: Refuse, finished: RunDirectory) -> None:
    assert "has done 2 iterations" in refuse("--resume", str(finished.path), "iterations=1")


def test_a_run_is_not_resumed_while_its_driver_lives(refuse: Refuse, run: RunDirectory) -> None:
    first = RunDirectory.resume(run.path)
    assert f"A driver is at work in {run.path}" in refuse("--resume", str(run.path))
    first.release()
    with pytest.raises(Placed):
        main("--resume", str(run.path))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("checkpoints/iteration-000005", "continue it with --resume {run}."),
        ("config.yaml", "continue it with --resume {run}."),
        ("../mime", "did you mean {run}?"),
        ("..", "choose one of {run}."),
    ],
)
def test_what_is_no_run_is_refused_with_what_may_be_meant(
    refuse: Refuse, run: RunDirectory, path: str, words: str
) -> None:
    folder = Path(str(run.path / path)) if not path.startswith("..") else (run.path / path).resolve()
    assert words.format(run=run.path) in refuse("--resume", str(folder))


@pytest.mark.parametrize("path", ["x" * 5000, "~nobody-of-this-name/run", "file/run"])
def test_a_path_that_no_file_can_have_is_refused(refuse: Refuse, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    assert "traceback" not in refuse("--resume", path)


def test_a_run_whose_checkpoints_are_a_file_is_refused_and_does_not_start_over(
    refuse: Refuse, run: RunDirectory
) -> None:
    shutil.rmtree(run.checkpoints)
    run.checkpoints.touch()
    assert f"The checkpoints in {run.checkpoints} cannot be read" in refuse("--resume", str(run.path))
