"""The main job's table: of any runs, whatever their rewards and splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.main_job import main
from cluster.config import load_words
from cluster.prompts import make_requests
from cluster.records.rundir import RunDirectory
from cluster.sources.rollouts import Rollout

Texts = pytest.CaptureFixture[str]


def run(path: Path, reward: str, split: str, before: list[float], after: list[float]) -> str:
    """A run of two evaluations; returns its folder."""
    record = RunDirectory.create(load_words([f"folder={path.parent}", f"name={path.name}"]))
    for iteration, scores in ((0, before), (3, after)):
        (request,) = make_requests(("a",), len(scores), len(scores), seed=0)
        sampled = Rollout(request, 0, 0.0, 1.0, None, None, {reward: np.array(scores)})  # type: ignore[arg-type]
        record.add(iteration, {f"eval/{split}/{reward}": sum(scores) / len(scores)}, {split: [sampled]})
    record.release()
    return str(path)


def test_an_own_reward_and_one_split_make_a_table(tmp_path: Path, capsys: Texts) -> None:
    folders = [run(tmp_path / f"run{i}", "brightness", "train", [0.0, 0.5], [0.5, 0.5 + i]) for i in range(2)]
    assert main(folders) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert ["trained prompts, unseen seeds", "brightness", "0.250", "0.750", "+0.250, +0.750"] in rows
    assert ["trained prompts, unseen seeds", "images", "2", "2", "+0, +0"] in rows
    assert not [row for row in rows if "all facts right" in row]


def test_the_gold_score_also_counts_images_with_every_fact_right(tmp_path: Path, capsys: Texts) -> None:
    assert main([run(tmp_path / "gold", "shapes_gold", "held_out", [0.0, 1.0], [1.0, 1.0])]) == 0
    assert "| held-out prompts | all facts right | 0.500 | 1.000 | +0.500 |" in capsys.readouterr().out


def test_what_is_no_run_is_an_error_in_one_sentence(tmp_path: Path, capsys: Texts) -> None:
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: There are no records of a run in {tmp_path}.\n"


def test_runs_without_an_evaluation_in_common_are_refused(tmp_path: Path, capsys: Texts) -> None:
    folders = [run(tmp_path / name, name, name, [0.0], [1.0]) for name in ("one", "other")]
    assert main(folders) == 1
    assert "no figure of an evaluation in common" in capsys.readouterr().err
