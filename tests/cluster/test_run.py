"""Bad input on the command line: one line on stderr, exit status 1, and no Ray."""

from __future__ import annotations

import shutil
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
from cluster.errors import StartError
from cluster.pages.summary import summary
from cluster.records.rundir import RunDirectory
from cluster.stopping import REQUESTS, Stopped, abandon
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


@pytest.fixture
def finished(make_config: Make) -> RunDirectory:
    """A run that has done its 2 iterations."""
    run = RunDirectory.create(make_config("name=done", "iterations=2"))
    for iteration in (0, 2):
        run.add(iteration, {"eval/train/shapes_gold": 0.5}, {})
    with checkpoint.writing(run.checkpoints, 2) as folder:
        (folder / "learner.pt").write_bytes(b"weights")
    return run


def test_a_finished_run_says_so_at_once(finished: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert main("--resume", str(finished.path), place=lambda config: pytest.fail("the run was started")) == 0
    said = capsys.readouterr().out
    assert f"{finished.path} is finished" in said
    assert f"report: {finished.path / 'report.html'}" in said


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
