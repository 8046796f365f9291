"""What is lost costs a new crew, as long as the run gets anywhere; and whoever was asked to end starts none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayActorError

import cluster.run
from cluster.config import Config
from cluster.crew.placement import Placement
from cluster.records.rundir import RunDirectory

Scene = Callable[..., int]


@pytest.fixture
def crews(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The crews that were assembled; none is real."""
    made: list[Any] = []

    def assemble(config: Config, placement: Placement) -> Any:
        made.append(
            SimpleNamespace(
                lost=lambda error: "The learner died." if str(error) == "lost" else None,
                learner=SimpleNamespace(
                    work=lambda groups, samples: (1, groups * samples, 4), steps=lambda: "The adapter acts everywhere."
                ),
            )
        )
        return made[-1]

    monkeypatch.setattr(cluster.run, "assemble", assemble)
    monkeypatch.setattr(cluster.run, "dismiss", lambda crew: None)
    monkeypatch.setattr(cluster.run, "write_report", lambda run: run.path / "report.html")
    monkeypatch.setattr(cluster.run, "machines", lambda: [])
    monkeypatch.setattr(cluster.run, "Telemetry", lambda name: None)
    monkeypatch.setattr(cluster.run.ray, "shutdown", lambda: None)
    return made


@pytest.fixture
def play(crews: list[Any], base: list[str], monkeypatch: pytest.MonkeyPatch) -> Scene:
    """Runs `main` with what happens, crew by crew, while models load and then in training; returns its status."""

    def run(
        loading: Iterator[Callable[[], None]],
        training: Iterator[Callable[[RunDirectory], None]],
        *overrides: str,
    ) -> int:
        monkeypatch.setattr(cluster.run, "wait_for", lambda crew, config, again: next(loading)())
        monkeypatch.setattr(cluster.run, "train", lambda config, crew, run, display: next(training)(run))
        place = lambda config: Placement({}, {}, {})  # noqa: E731
        return cluster.run.main("program", "", place, [*base, "name=mine", *overrides])

    return run


def lose() -> None:
    raise RayActorError(None, "lost")


def fine(*_: Any) -> None:
    return


def record(iteration: int) -> Callable[[RunDirectory], None]:
    def work(run: RunDirectory) -> None:
        run.record(iteration, {"loss": 0.0}, {})
        lose()

    return work


def finish(run: RunDirectory) -> None:
    with cluster.run.checkpoint.writing(run.checkpoints, 1) as folder:
        (folder / "learner.pt").write_bytes(b"weights")


@pytest.mark.slow
def test_a_learner_that_dies_while_it_loads_is_tried_again(play: Scene, crews: list[Any]) -> None:
    assert play(iter([lose, fine, lose, fine]), iter([lambda run: lose(), finish])) == 0
    assert len(crews) == 4


def test_one_that_never_loads_ends_the_run_in_a_sentence(
    play: Scene, crews: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert play(iter([lose] * 9), iter([]), "failures.max_deaths=2") == 1
    assert len(crews) == 3
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "The learner was lost 3 times, more than failures.max_deaths=2 allows between two iterations" in last


def test_losses_that_the_run_got_over_do_not_count(play: Scene, crews: list[Any]) -> None:
    training = [record(1), record(2), record(3), record(4), finish]
    assert play(iter([fine] * 9), iter(training), "failures.max_deaths=1") == 0
    assert len(crews) == 5


def test_an_iteration_that_was_reached_before_is_no_progress(play: Scene, crews: list[Any]) -> None:
    training = [record(2), record(1), record(2)]
    assert play(iter([fine] * 9), iter(training), "failures.max_deaths=2") == 1
    assert len(crews) == 3


def test_other_errors_are_not_tried_again(play: Scene, crews: list[Any]) -> None:
    def fail() -> None:
        raise cluster.run.StartError("The learner cannot start: no.")

    assert play(iter([fail]), iter([])) == 1
    assert len(crews) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_request_to_end_outlives_the_loss_of_the_learner(play: Scene, crews: list[Any], number: int) -> None:
    def work(run: RunDirectory) -> None:
        os.kill(os.getpid(), number)
        lose()

    assert play(iter([fine]), iter([work])) == 128 + number
    assert len(crews) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_request_to_end_while_models_load_ends_the_wait(
    play: Scene, crews: list[Any], number: int, tmp_path: Path
) -> None:
    went_on = False

    def load() -> None:
        nonlocal went_on
        os.kill(os.getpid(), number)
        went_on = True

    assert play(iter([load]), iter([])) == 128 + number
    assert not went_on
