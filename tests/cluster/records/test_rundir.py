"""The run directory: what is recorded, replaced and forgotten, and that a reader never sees half of it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog

from cluster.config import Config, load_config
from cluster.errors import ConfigError
from cluster.prompts import make_requests
from cluster.records import parts
from cluster.records.rundir import RunDirectory
from cluster.sources.rollouts import Rollout

Make = Callable[..., Config]


@pytest.fixture
def run(make_config: Make) -> RunDirectory:
    return RunDirectory.create(make_config("name=first"))


def splits(score: float = 0.0) -> dict[str, list[Rollout]]:
    requests = make_requests(("a", "b"), 2, 3, seed=7, iteration=1)
    return {
        "training": [
            Rollout(r, 5, 0.0, 1.0, None, None, {"gold": np.full(len(r.prompts), score, np.float32)})  # type: ignore[arg-type]
            for r in requests
        ]
    }


def samples(run: RunDirectory) -> list[dict]:
    return pq.read_table(run.path / "samples.parquet").to_pylist()


def test_a_new_run_saves_its_configuration_and_takes_no_folder_that_exists(make_config: Make) -> None:
    config = make_config("name=first", "learner.lr=3e-4")
    run = RunDirectory.create(config)
    assert run.config == load_config(run.path / "config.yaml")
    assert run.config.model_copy(update={"prompts": config.prompts}) == config
    with pytest.raises(ConfigError, match=f"{run.path} exists already; continue it with --resume {run.path}"):
        RunDirectory.create(config)


def test_a_folder_that_cannot_be_made_is_refused_in_one_sentence(make_config: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file"):
        RunDirectory.create(make_config("name=first", f"folder={tmp_path / 'file'}"))


def test_a_run_without_a_name_is_called_after_its_objective(make_config: Make) -> None:
    assert RunDirectory.create(make_config("objective.name=d3po")).path.name.startswith("d3po-")


def test_metrics_read_back_in_order_whatever_the_order_of_writing(run: RunDirectory) -> None:
    run.record(10, {"loss": 0.25, "late": 1}, {})
    run.record(0, {"loss": 1.0}, {})
    run.record(2, {"loss": 0.5}, {})
    assert run.metrics() == {"loss": [(0, 1.0), (2, 0.5), (10, 0.25)], "late": [(10, 1.0)]}


def test_a_part_that_holds_something_else_costs_a_warning(run: RunDirectory, caplog: pytest.LogCaptureFixture) -> None:
    run.record(0, {"loss": 1.0}, {})
    for number, table in enumerate((pa.table({"x": [1]}), pa.table({"iteration": ["a"], "name": [5]})), 1):
        pq.write_table(table, run.path / "metrics.parquet" / f"{number:06d}.parquet")
    assert run.metrics() == {"loss": [(0, 1.0)]}
    assert "something else than metrics" in caplog.text


def test_every_sample_is_recorded_with_what_it_takes_to_draw_it_again(run: RunDirectory) -> None:
    run.record(1, {"loss": 1.0}, splits(score=0.5))
    expected = [
        {"prompt": prompt, "prompt_index": i, "sample_index": s} for i, prompt in enumerate("ab") for s in range(2)
    ]
    common = {"iteration": 1, "split": "training", "seed": 7, "version": 5, "gold": 0.5}
    assert samples(run) == [common | row for row in expected]


def test_a_data_set_is_a_folder_that_other_programs_read(run: RunDirectory) -> None:
    for iteration in range(3):
        run.record(iteration, {"loss": iteration}, splits())
    metrics, drawn = (pandas.read_parquet(run.path / f"{name}.parquet") for name in ("metrics", "samples"))
    assert sorted(metrics["iteration"]) == [0, 1, 2]
    assert len(drawn) == 12
    assert set(metrics.columns) == {"iteration", "name", "value", "time"}


def test_recording_an_iteration_again_replaces_it(run: RunDirectory) -> None:
    run.record(1, {"loss": 1.0, "old": 1.0}, splits(0.0))
    run.record(1, {"loss": 2.0}, splits(1.0))
    assert run.metrics() == {"loss": [(1, 2.0)]}
    assert [row["gold"] for row in samples(run)] == [1.0] * 4


def test_rewinding_forgets_what_came_after_and_nothing_else(run: RunDirectory) -> None:
    for iteration in (0, 1, 9, 10, 11):
        run.record(iteration, {"loss": iteration}, splits())
    run.rewind(9)
    assert [iteration for iteration, _ in run.metrics()["loss"]] == [0, 1, 9]
    assert {row["iteration"] for row in samples(run)} == {0, 1, 9}
    run.rewind(9)
    assert (run.path / "config.yaml").is_file()


def test_a_crash_while_writing_leaves_what_was_there(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    run.record(0, {"loss": 1.0}, splits(0.0))
    run.record(1, {"loss": 2.0}, splits(0.0))

    def torn(table: pa.Table, file: BinaryIO) -> None:
        file.write(b"PAR1 half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(parts.pq, "write_table", torn)
    for iteration in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            run.record(iteration, {"loss": 9.0}, splits(1.0))
    monkeypatch.undo()
    assert run.metrics() == {"loss": [(0, 1.0), (1, 2.0)]}
    assert {row["gold"] for row in samples(run)} == {0.0}
    assert not list(run.path.glob("*/.*"))


def evaluation(score: float) -> dict[str, list[Rollout]]:
    return {"train": splits(score)["training"]}


def test_an_evaluation_is_added_to_what_is_on_record_of_its_iteration(run: RunDirectory) -> None:
    run.record(2, {"loss": 1.0}, splits(0.0))
    assert not run.evaluated(2)
    for attempt in (0.25, 0.5):  # the second replaces the first
        run.add(2, {"eval/train/gold": attempt}, evaluation(attempt))
    assert run.evaluated(2)
    assert run.metrics() == {"loss": [(2, 1.0)], "eval/train/gold": [(2, 0.5)]}
    assert [(row["split"], row["gold"]) for row in samples(run)] == [("training", 0.0)] * 4 + [("train", 0.5)] * 4


def test_an_evaluation_alone_is_a_record(run: RunDirectory) -> None:
    run.add(0, {"eval/train/gold": 0.5}, evaluation(0.5))
    assert run.evaluated(0)
    assert run.metrics() == {"eval/train/gold": [(0, 0.5)]}
    assert not run.evaluated(1)


def test_an_evaluation_counts_as_recorded_only_when_its_samples_are(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.record(1, {"loss": 1.0}, splits(0.0))
    write = pq.write_table
    monkeypatch.setattr(
        parts.pq, "write_table", lambda table, file: write(table, file) if "samples" in file.name else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        run.add(1, {"eval/train/gold": 0.5}, evaluation(0.5))
    assert not run.evaluated(1)
    monkeypatch.undo()
    run.add(1, {"eval/train/gold": 0.5}, evaluation(0.75))
    assert [row["gold"] for row in samples(run)] == [0.0] * 4 + [0.75] * 4


def events(run: RunDirectory) -> list[tuple[int, str]]:
    """(step, tag) of every value in TensorBoard's files: records of length, checksum, protobuf, checksum."""
    found = []
    for file in sorted((run.path / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            found += [(event.step, value.tag) for value in event.summary.value]
            found += [(event.step, "START")] * (event.session_log.status == SessionLog.START)
            data = data[16 + size :]
    return found


def test_tensorboard_has_the_figures_and_the_grids(run: RunDirectory) -> None:
    run.write_grid("train", 1, Image.new("RGB", (40, 30), "green"))
    run.record(1, {"loss": 0.5, "reward/mean": 2.0}, splits())
    assert sorted(events(run)) == [(1, "loss"), (1, "reward/mean"), (1, "train")]
    assert (run.path / "images" / "train-000001.png").is_file()


def test_a_folder_that_is_released_has_no_open_file(run: RunDirectory) -> None:
    run.record(1, {"loss": 1.0}, {})
    assert any(run.path in Path(file.path).parents for file in psutil.Process().open_files())
    run.release()
    assert not any(run.path in Path(file.path).parents for file in psutil.Process().open_files())


def test_tensorboard_forgets_what_a_resumed_run_does_again(run: RunDirectory) -> None:
    run.record(1, {"loss": 0.5}, splits())
    run.record(2, {"loss": 0.4}, splits())
    resumed = RunDirectory(run.path)
    resumed.rewind(1)
    resumed.record(2, {"loss": 0.3}, splits())
    assert (2, "START") in events(run)  # what TensorBoard reads as: steps from 2 on are void


def test_reading_a_run_writes_no_events(run: RunDirectory) -> None:
    run.record(1, {"loss": 0.5}, splits())
    RunDirectory(run.path).metrics()
    assert len(list((run.path / "tensorboard").iterdir())) == 1
