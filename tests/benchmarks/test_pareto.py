"""Reward against diversity: what a method has spent is counted alike for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.pareto import main, queries_per_image
from cluster.config import load_config
from cluster.records.rundir import RunDirectory


@pytest.mark.parametrize(
    ("overrides", "queries"),
    [
        (["objective.name=ppod"], 1),
        # The image; then the last transition and one stratum of the eleven others, at both ends or at one.
        (["objective.name=residual_nabla_db"], 1 + 2 * 2),
        (["objective.name=residual_nabla_db", "objective.no_flow=true"], 1 + 2),
        (["objective.name=nabla_db", "objective.reverse_weight=0"], 1 + 2),
        (["objective.name=nabla_db", "objective.step_fraction=1"], 1 + 2 * 12),
    ],
)
def test_queries_are_counted_per_image(overrides: list[str], queries: int) -> None:
    assert queries_per_image(load_config(None, [*overrides, "policy.steps=12"])) == queries


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
