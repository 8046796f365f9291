"""How a run ends, of itself, by a request or by an error: its last line, its status, its page and what stays."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, NoReturn

import pytest

import cluster.run
from cluster.config import Config
from cluster.errors import StartError
from cluster.pages.summary import summary
from cluster.records.rundir import RunDirectory
from cluster.stopping import REQUESTS, Stopped, abandon
from tests.support.command import Placed, interrupt, main

pytestmark = pytest.mark.usefixtures("no_ray")


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


@pytest.mark.parametrize(
    ("asked", "status", "words"), [(True, 143, "stopped by SIGTERM"), (False, 1, "error: Ray has died on this machine")]
)
def test_a_run_that_cannot_wait_for_ray_says_how_to_go_on(
    run: RunDirectory,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    asked: bool,
    status: int,
    words: str,
) -> None:
    ended: list[int] = []

    def end(with_status: int) -> NoReturn:
        ended.append(with_status)
        raise Placed

    def wait_for_ever(config: Config) -> NoReturn:
        if asked:
            signal.raise_signal(signal.SIGTERM)
        abandon()

    monkeypatch.setattr("os._exit", end)
    with pytest.raises(Placed):
        main("--resume", str(run.path), place=wait_for_ever)
    assert ended == [status]
    assert capfd.readouterr().err == (
        f"{words} at {run.checkpoints}/iteration-000005; continue with: python -m cluster.local --resume {run.path}\n"
    )


@pytest.mark.parametrize(
    ("place", "state"),
    [(None, "finished"), (interrupt, "stopped"), (lambda config: 1 / 0, "stopped")],
    ids=["finished", "interrupted", "failed"],
)
def test_the_last_page_of_a_run_does_not_say_that_it_is_under_way(
    finished: RunDirectory, run: RunDirectory, monkeypatch: pytest.MonkeyPatch, place: Any, state: str
) -> None:
    states: list[str] = []
    monkeypatch.setattr(cluster.run, "write_report", lambda run: states.append(summary(run)["state"]))
    main("--resume", str((run if place else finished).path), place=place)
    assert states == [state]


def test_a_page_that_cannot_be_written_costs_a_warning(
    finished: RunDirectory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(cluster.run, "write_report", lambda run: 1 / 0)
    assert main("--resume", str(finished.path)) == 0
    assert caplog.text.count("The run's page cannot be written") == 1
    said = capsys.readouterr().out
    assert "report:" not in said
    assert f"adapter: {finished.checkpoints / 'iteration-000002'}" in said


def test_a_run_that_cannot_start_leaves_nothing_behind(base: list[str], tmp_path: Path) -> None:
    def fail(config: Config) -> NoReturn:
        assert (tmp_path / "runs" / "mine").is_dir()  # nobody else can take the name meanwhile
        raise StartError("There is no room.")

    assert main(*base, "name=mine", place=fail) == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StartError("There is\n no \x1b[31mroom\x1b[0m."), "There is no room."),
        (KeyError("k"), "KeyError: 'k' (traceback: {run}/error.log)"),
        (SystemExit(0), "Something that the run loaded ended the process with sys.exit(0); it must not."),
        (
            OSError(28, "No space left on device"),
            "OSError: [Errno 28] No space left on device (traceback: {run}/error.log)",
        ),
    ],
)
def test_whatever_is_raised_the_command_ends_with_one_line(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], error: BaseException, line: str
) -> None:
    def fail(config: Config) -> NoReturn:
        raise error

    assert main("--resume", str(run.path), place=fail) == 1
    assert capsys.readouterr().err == f"error: {line.format(run=run.path)}\n"


def test_a_full_disk_is_named_and_nothing_half_written_stays(
    run: RunDirectory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(table: Any, file: Any) -> NoReturn:
        file.write(b"half")
        raise OSError(28, "Error writing bytes to file")

    def record(config: Config, run: RunDirectory, *others: Any) -> None:
        run.record(6, {"loss": 1.0}, {})

    monkeypatch.setattr(cluster.run, "_supervise", record)
    monkeypatch.setattr("cluster.records.parts.pq.write_table", full)
    assert main("--resume", str(run.path)) == 1
    assert capsys.readouterr().err.startswith(
        f"error: {run.path / 'samples.parquet'} cannot be written to: No space left on device; "
    )
    assert not list(run.path.glob("*.parquet/*"))
