"""Reward against diversity: what a method has spent is what its learner counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pareto import FIGURES, main, series
from cluster.config import load_config
from cluster.records.rundir import RunDirectory


def test_what_a_method_has_spent_is_what_the_learner_counted(tmp_path: Path) -> None:
    run = RunDirectory.create(load_config(None, [f"folder={tmp_path}", "name=mine"]))
    figures = {f"eval/train/{name}": 1.0 for name in ("shapes_agreement", *FIGURES)}
    spent = {"reward_queries": 240.0, "reward_gradients": 192.0, "time/iteration": 2.5}
    run.record(0, figures, {})
    run.record(1, spent, {})
    run.record(2, figures | spent | {"reward_queries": 480.0, "reward_gradients": 384.0}, {})
    name, rows = series(run.path, "shapes_agreement")
    assert name == "ppod"
    assert rows.tolist() == [[0, 0, 0, 1, 1, 1, 1], [480, 384, 5, 1, 1, 1, 1]]


@pytest.mark.parametrize("gold", [False, True])
def test_what_is_no_run_or_was_not_evaluated_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gold: bool
) -> None:
    run = RunDirectory.create(load_config(None, [f"folder={tmp_path}", "name=mine"]))
    if gold:  # but neither the reward nor the other figures
        run.record(0, {"eval/train/gold": 1.0}, {})
    for folder, words in ((tmp_path / "no", "There is no config file"), (run.path, "no evaluation on record")):
        monkeypatch.setattr("sys.argv", ["benchmarks.pareto", str(folder)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 1
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith("error: ")
        assert words in said
