"""Loggers of others, written to for real without a network or an account, and what becomes of one that fails."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from PIL import Image

from cluster.config import Config, ConfigError, watching_rules
from cluster.records import loggers
from cluster.records.loggers import IDS, Loggers
from cluster.records.rundir import RunDirectory

GRID = Image.new("RGB", (8, 4), "red")
SETTINGS = {"learner": {"lr": 0.5, "long": "x" * 7000}, "loggers": ["mlflow"], "empty": {}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a run, and the user has said nothing about any logger."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def go_on(name: str, folder: Path, first: int) -> str:
    """Write two iterations of a run that is begun or continued; returns the id of theirs."""
    opened = Loggers([name], folder, SETTINGS)
    for step in (first, first + 1):
        opened.scalars(step, {"loss": 0.5 * step, "queue/a+b/waiting": 1.0, "worst": float("nan")})
    opened.image(first + 1, "train", GRID)
    opened.close()
    return json.loads((folder / IDS).read_text())[name]


def test_mlflow_keeps_one_run_in_a_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = {go_on("mlflow", folder, first) for first in (1, 3)}
    assert not caplog.records
    from mlflow import MlflowClient

    client = MlflowClient((folder.parent / "mlruns").as_uri())
    (experiment,) = client.search_experiments(filter_string="name = 'reinoise'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert found == {run.info.run_id}
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)]
    assert run.data.metrics["queue/a_b/waiting"] == 1.0
    assert "worst" not in run.data.metrics
    assert run.data.params["learner.lr"] == "0.5"
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert pictures == ["images/train-000002.png", "images/train-000004.png"]


@pytest.mark.slow
def test_wandb_without_an_account_keeps_one_run_on_disk(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = {go_on("wandb", folder, first) for first in (1, 3)}
    assert not caplog.records
    (number,) = found
    parts = sorted((folder / "wandb").glob(f"offline-run-*-{number}"))
    assert len(parts) == 2
    for part in parts:
        record, words = part / f"run-{number}.wandb", (b"loss", b"queue/a+b/waiting", b"iteration", b"learner")
        until = time.monotonic() + 60
        while missing := [word for word in words if word not in record.read_bytes()]:
            assert time.monotonic() < until, missing  # its own process writes on for a while
            time.sleep(0.1)
        (picture,) = part.rglob("*.png")
        assert Image.open(picture).size == GRID.size


class Broken:
    """A logger whose server goes away."""

    id = "7"

    def __init__(self, *_: Any) -> None:
        self.scalars = self.image = self.close = self._fail

    def _fail(self, *_: Any) -> NoReturn:
        raise OSError("no route\nto host")


def test_a_logger_that_fails_costs_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(loggers.LOGGERS, "broken", f"{__name__}:Broken")
    monkeypatch.setattr(loggers, "import_module", lambda name: __import__("sys").modules[name])
    opened = Loggers(["broken"], folder, {})
    opened.scalars(1, {"loss": 1.0})
    opened.image(1, "train", GRID)
    opened.close()
    assert [record.getMessage() for record in caplog.records] == [
        "The logger broken failed, and the run goes on without it (OSError: no route to host)."
    ]


def test_a_logger_that_does_not_begin_costs_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at-all")
    with caplog.at_level(logging.WARNING):
        Loggers(["mlflow"], folder, {}).scalars(1, {"loss": 1.0})
    (record,) = caplog.records
    assert record.getMessage().startswith("The logger mlflow failed, and the run goes on without it (")


def test_a_run_writes_to_it(make_config: Callable[..., Config], folder: Path) -> None:
    run = RunDirectory.create(make_config("loggers=mlflow", "name=mine"))
    run.record(1, {"loss": 2.0}, {})
    run.write_grid("train", 1, GRID)
    run.release()
    (loss,) = run.path.parent.glob("mlruns/*/*/metrics/loss")
    assert loss.read_text().split()[1:] == ["2.0", "1"]
    (rate,) = run.path.parent.glob("mlruns/*/*/params/learner.lr")
    assert float(rate.read_text()) == run.config.learner.lr
    assert len([*run.path.parent.glob("mlruns/*/*/artifacts/images/*.png")]) == 1


def test_a_package_that_is_missing_is_refused_before_anything_starts(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching_rules, "find_spec", lambda name: None)
    assert make_config().loggers == ()
    with pytest.raises(ConfigError, match=r"whose package is not installed; pip install 'reinoise\[wandb\]'"):
        make_config("loggers=wandb")


def test_other_words_are_refused(make_config: Callable[..., Config]) -> None:
    with pytest.raises(ConfigError, match="should be 'wandb' or 'mlflow'"):
        make_config("loggers=[wandb, comet]")
