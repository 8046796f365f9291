"""The grids: what they refuse before anything starts, how runs are begun, continued and passed over, and the table."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from actors.config import PolicyConfig
from benchmarks.methods import cells as running
from benchmarks.methods import figures
from benchmarks.methods.__main__ import main
from benchmarks.methods.cells import check_same, failure, is_finished, run_all
from benchmarks.methods.curves import draw_curves, learned
from benchmarks.methods.figures import changes, mean_and_error
from benchmarks.methods.grid import GRIDS, Cell, Grid, cells, load_grid, queries
from benchmarks.methods.table import collect, rows, write
from cluster.config import read_config
from cluster.errors import ConfigError
from cluster.records.rundir import RunDirectory
from tests.learner.rank_process import CASES, Start, draw
from tests.support.tiny import write_config

Texts = pytest.CaptureFixture[str]


def grid_of(**changed: object) -> Grid:
    small = {
        "question": "Which?",
        "common": ["iterations=2"],
        "worlds": {"first": []},
        "seeds": [0],
        "arms": {"one": [], "other": ["objective.name=d3po"]},
    }
    return Grid.model_validate(small | changed)


@pytest.mark.parametrize("name", sorted(path.stem for path in GRIDS.glob("*.yaml")))
def test_every_grid_of_the_repository_loads_at_equal_work(name: str, tmp_path: Path) -> None:
    grid = load_grid(name)
    made = cells(grid, tmp_path, seeds=[0])
    assert len(made) == len(grid.worlds) * len(grid.arms)
    if name == "ablations":  # its arms ask for more or fewer gradients of as many images
        assert {cell.config.iterations * cell.config.batch_size for cell in made} == {576}
        return
    expected = {"search": 480, "claims": 480, "likelihood": 480, "steps": 3936}.get(name, 960)
    assert {queries(cell.config) for cell in made} == {expected}


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (grid_of(arms={"one": [], "typo": ["learner.lrr=1"]}), "first/typo: There is no setting"),
        (grid_of(arms={"one": [], "other": ["prompts.samples=12"]}), "at equal reward queries"),
        (grid_of(arms={"one": [], "other": ["objective.offline_batches=1"]}), "at equal reward queries"),
        (grid_of(common=["a.yaml"], arms={"one": ["b.yaml"]}), "first/one names 2 config files, a.yaml and b.yaml"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_in_one_sentence(grid: Grid, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        cells(grid, tmp_path)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no grid 'method'; give a file"):
        load_grid("method")
    with pytest.raises(ConfigError, match="no arm 'two'; it has one, other"):
        cells(grid_of(), tmp_path, arms=["two"])
    with pytest.raises(ConfigError, match="seed 3 is given twice"):
        cells(grid_of(), tmp_path, seeds=[3, 3])
    with pytest.raises(ConfigError, match="seed 0 is given twice"):
        cells(grid_of(seeds=[0, 0]), tmp_path)
    (tmp_path / "grid.yaml").write_text("question: Which?\nworld: {}\n")
    with pytest.raises(ConfigError, match="cannot be read: of worlds, field required"):
        load_grid(str(tmp_path / "grid.yaml"))


@pytest.mark.parametrize(
    "case",
    [
        "ppod",
        "residual_nabla_db",
        "residual_nabla_db, no flow",
        "dag_db",
        "refl",
        "draft_lv",
        "adjoint_matching",
        "vgg_flow",
        "spo",
    ],
)
def test_what_a_run_is_to_spend_is_what_the_learner_counts(tiny_pipeline: Path, case: str) -> None:
    policy = PolicyConfig(model=str(tiny_pipeline), device="cpu", steps=5, lora_rank=2, lora_alpha=2)
    settings = [f"objective={json.dumps(CASES[case])}", "policy.steps=5", "iterations=1", "prompts.per_iteration=1"]
    learner = (start := Start(policy)).learner(case, micro_batch=10)  # whole chains
    batch = draw(start.policy)
    batch = replace(batch, rewards=batch.rewards.nan_to_num())
    if case != "spo":  # no other asks for candidates
        batch = replace(batch, candidates=None, judged=None)
    assert learner.step(batch).metrics["reward_queries"] == queries(read_config(None, [*settings, "prompts.samples=7"]))


def test_spending_that_depends_on_what_is_drawn_is_refused() -> None:
    settings = ["objective={name: residual_nabla_db, subsample: steps, step_fraction: 0.1}"]
    with pytest.raises(ConfigError, match=r"as many states as happen to be drawn; .*=chains"):
        queries(read_config(None, settings))


def test_a_lag_asks_about_nothing_at_first() -> None:
    settings = ["objective={name: residual_nabla_db, lag: 1, updates: 1, step_fraction: 1}", "iterations=3"]
    config = read_config(None, settings)
    assert queries(config) == config.batch_size * (3 + 2 * (config.policy.steps + 1))


def record(cell: Cell, iterations: int, **metrics: float) -> None:
    """Records of a run so far, as a learner and evaluations leave them."""
    run = RunDirectory.create(cell.config)
    for iteration in range(iterations + 1):
        ends = iteration in (0, cell.config.iterations)
        found = (
            {"eval/train/shapes_agreement": 0.5 * iteration, "eval/train/shapes_gold": 0.1 * iteration} if ends else {}
        )
        if iteration:
            spent = float(cell.config.batch_size * iteration)
            found |= {"time/iteration": 2.0, "network_evaluations": 10.0 * iteration, "reward_queries": spent} | metrics
        run.record(iteration, found, {})


def test_finished_cells_are_passed_over_and_begun_ones_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, other, done = cells(grid_of(arms={"begun": [], "new": [], "done": []}), tmp_path)
    record(begun, 1)
    record(done, 2)
    assert [is_finished(cell) for cell in (begun, other, done)] == [False, False, True]
    started: list[list[str]] = []

    class Process:
        returncode = 0

        def __init__(self, words: list[str], **_: object) -> None:
            started.append(words)

        def poll(self) -> int:
            return 0

    monkeypatch.setattr(running, "_SECONDS", 0)
    monkeypatch.setattr(running.subprocess, "Popen", Process)
    run_all([begun, other, done], jobs=1)
    assert [words[2:5:2] for words in started] == [["cluster.local", str(begun.run)], ["cluster.local", other.words[1]]]


def test_a_run_of_other_settings_is_not_taken_for_the_cell(tmp_path: Path) -> None:
    (cell,) = cells(grid_of(arms={"one": []}), tmp_path)
    record(cell, 2)
    check_same(cell)
    (changed,) = cells(grid_of(arms={"one": ["learner.lr=0.01"]}), tmp_path)
    with pytest.raises(ConfigError, match=r"other settings than the grid's \(learner.lr=0.001 and not 0.01\)"):
        check_same(changed)


@pytest.mark.slow
def test_a_cell_that_fails_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Texts
) -> None:
    """Real processes: the first arm's ends at once with its sentence, the second's too, and neither stops the other."""
    broken = cells(grid_of(arms={"one": [], "two": []}), tmp_path)
    for cell in broken:
        cell.run.mkdir(parents=True)
        (cell.run / "foreign").touch()
    run_all(broken, jobs=2)
    results, missing = collect(broken)
    assert not results
    assert [line.split(":")[0] for line in missing] == ["first/one/0", "first/two/0"]
    assert all("holds other files than a run's" in line for line in missing)
    assert "holds other files" in str(failure(broken[0]))


def test_a_run_that_spent_something_else_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "chain_kl", lambda run: 3.0)
    good, bad = cells(grid_of(arms={"good": [], "bad": []}), tmp_path)
    record(good, 2)
    record(bad, 2, reward_queries=7.0)
    results, notes = collect([good, bad])
    assert notes == [f"first/bad/0 showed the reward 7 images and not {queries(bad.config):,}."]
    (found,) = results["first", "good"]
    assert found["train gold change"] == pytest.approx(0.2)
    assert (found["kl"], found["seconds"], found["evaluations"]) == (3.0, 4.0, 20.0)


def test_a_run_that_dropped_samples_is_a_result_and_the_table_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "chain_kl", lambda run: 3.0)
    less, more = cells(grid_of(arms={"less": [], "more": []}), tmp_path)
    wanted = queries(less.config)
    record(less, 2, reward_queries=wanted - 2.0)
    record(more, 2, reward_queries=wanted + 1.0)
    results, notes = collect([less, more])
    assert [found["queries"] for found in results["first", "less"]] == [wanted - 2]
    assert ("first", "more") not in results
    assert notes[0] == f"first/less/0 showed the reward 2 of {wanted:,} images less, which were dropped."
    assert "first/more/0" in notes[1]
    write(grid_of(question="[bold]Which?[/nope]"), results, notes, tmp_path)
    assert notes[0] in (tmp_path / "table.md").read_text()


def test_the_table_has_means_and_standard_errors() -> None:
    assert mean_and_error([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1 / math.sqrt(3)))
    assert np.isnan(mean_and_error([1.0])[1])
    figures = {"train/gold": 0.8, "train/gold before": 0.7, "train/diversity": 0.3, "train/diversity before": 0.6}
    costs = {"kl": 12.0, "queries": 1920.0, "evaluations": 5e4, "seconds": 90.0}
    first = changes(figures | costs)
    assert first["train gold change"] == pytest.approx(0.1)
    assert first["train diversity kept"] == pytest.approx(0.5)
    second = changes(figures | costs | {"train/gold": 1.0})
    head, (row, alone) = rows({("first", "a"): [first, second], ("first", "b"): [first]})
    of = dict(zip(head, row, strict=True))
    assert of["runs"] == "2"
    assert of["train gold change"] == "+0.200 ± 0.100"
    assert of["queries"] == "1,920"
    assert of["KL, nats of a chain"] == "12.00 ± 0.00"
    assert dict(zip(head, alone, strict=True))["train gold change"] == "+0.100"


def test_a_curve_is_each_batchs_gold_score_over_the_images_so_far(tmp_path: Path) -> None:
    made = cells(grid_of(arms={"one": []}, seeds=[0, 1]), tmp_path)
    for cell, gold in zip(made, (0.5, 0.7), strict=True):
        record(cell, 2, **{"score/shapes_gold": gold})
    queries_, scores, name = learned(made)
    size = made[0].config.batch_size
    assert (queries_.tolist(), scores.tolist()) == ([size, 2 * size], [[0.5, 0.5], [0.7, 0.7]])
    assert name == "score/shapes_gold"
    draw_curves(made, tmp_path)
    assert (tmp_path / "curves" / "one.png").is_file()


@pytest.mark.slow
def test_a_grid_runs_and_runs_again(tmp_path: Path, capsys: Texts) -> None:
    config = write_config(tmp_path)
    small = {
        "question": "Which?",
        "common": ["iterations=2", str(config)],
        "worlds": {"tiny": []},
        "seeds": [0],
        "arms": {"ppod": [], "rwr": ["objective.name=rwr", "objective.updates=1"]},
    }
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(small))
    words = [str(tmp_path / "grid.yaml"), "--folder", str(tmp_path / "runs")]
    assert main([*words, "--jobs", "2"]) == 0
    table = (tmp_path / "runs" / "table.md").read_text()
    assert "| tiny | ppod | 1 |" in table
    assert "| tiny | rwr | 1 |" in table
    assert (tmp_path / "runs" / "tiny.png").is_file()
    assert {path.stem for path in (tmp_path / "runs" / "curves").glob("*.png")} == {"ppod", "rwr"}
    made = cells(load_grid(words[0]), tmp_path / "runs")
    before = [cell.run.stat().st_mtime_ns for cell in made]
    assert main(words) == 0
    assert [cell.run.stat().st_mtime_ns for cell in made] == before
    assert all(figures.divergence(cell) > 0 for cell in made)
    assert figures.chain_kl(made[0].run / "checkpoints" / "iteration-000000") == 0
