"""Runs beside one another: grouped by seed, means with standard errors, fronts, pictures at equal seeds."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import compare, yaml_text
from cluster.config import Config
from cluster.pages.compare import Front, Group, along, curve, final, front, notes, read_groups
from cluster.pages.report import write_report
from cluster.records.reading import CONFIG, Records
from tests.support.made_up_run import PROMPTS, make_up
from tests.support.page import Page, refers_outside

Make = Callable[..., Config]
HEAVY = {"torch", "ray", "pydantic", "diffusers", "transformers"}


@pytest.fixture
def runs(make_config: Make) -> list[Path]:
    """Two seeds of one configuration, and one of another."""
    words = {"a-0": ["seed=0"], "a-1": ["seed=1"], "b-0": ["seed=0", "learner.lr=0.01"]}
    return [make_up(make_config(f"name={name}", "iterations=4", *own), (0, 2, 4)).path for name, own in words.items()]


def made_group(*series: dict[str, list[tuple[int, float]]]) -> Group:
    return Group("a", [Records(Path(str(n))) for n in range(len(series))], [*range(len(series))], [*series], "a", {})


def test_runs_that_differ_in_their_seed_alone_are_one_group(runs: list[Path]) -> None:
    first, second = read_groups(runs)
    assert ([run.path.name for run in first.runs], first.seeds) == (["a-0", "a-1"], [0, 1])
    assert ([run.path.name for run in second.runs], second.seeds) == (["b-0"], [0])
    assert (first.name, second.name) == ("ppod, lr 0.0003", "ppod, lr 0.01")
    assert first.weights == {"shapes_agreement": 1.0}


def test_figures_have_the_standard_error_over_seeds(runs: list[Path]) -> None:
    first, second = read_groups(runs)
    values = [Records(run).metrics()["eval/train/shapes_gold"][-1][1] for run in runs[:2]]
    _, after = final(first, "eval/train/shapes_gold")
    assert after is not None
    assert after.mean == pytest.approx(statistics.fmean(values))
    assert after.error == pytest.approx(statistics.stdev(values) / math.sqrt(2))
    _, alone = final(second, "eval/train/shapes_gold")
    assert alone is not None
    assert math.isnan(alone.error)
    assert final(second, "eval/train/nothing") == (None, None)


def test_curves_run_over_samples_queries_and_hours() -> None:
    series = {
        "samples": [(1, 10.0), (2, 10.0)],
        "reward_queries": [(1, 30.0), (2, 60.0)],
        "time/iteration": [(1, 1800.0), (2, 3600.0)],
        "eval/train/a": [(0, 1.0), (2, 5.0)],
    }
    assert along(series, "samples") == {0: 0.0, 1: 10.0, 2: 20.0}
    assert along(series, "queries") == {0: 0.0, 1: 30.0, 2: 60.0}
    assert along(series, "hours") == {0: 0.0, 1: 0.5, 2: 1.5}
    assert along({**series, "images_drawn": [(1, 5.0)]}, "samples") == {0: 0.0, 1: 5.0}
    slower = {**series, "time/iteration": [(1, 1800.0), (2, 7200.0)], "eval/train/a": [(0, 1.0), (2, 7.0)]}
    found = curve(made_group(series, slower), "eval/train/a", "hours")
    assert [(x, mean.mean) for x, mean in found] == [(0.0, 1.0), (2.0, 6.0)]
    assert curve(made_group(series), "eval/train/b", "samples") == []


def best(found: Front) -> set[tuple[int, int]]:
    """By hand: (group, iteration) of those that no other beats in one figure and equals in the other."""
    points = [(g, n, x, -y if found.lower else y) for g, path in enumerate(found.paths) for n, x, y in path]
    beaten = {
        (g, n)
        for g, n, x, y in points
        for h, m, a, b in points
        if (h, m) != (g, n) and a >= x and b >= y and (a, b) != (x, y)
    }
    return {(g, n) for g, n, _, _ in points} - beaten


@pytest.mark.parametrize(("figure", "lower"), [("gold", False), ("distance", True)])
def test_the_front_holds_what_no_other_beats(figure: str, lower: bool) -> None:
    one = made_group({"eval/train/r": [(0, 0.0), (1, 1.0), (2, 2.0)], f"eval/train/{figure}": [(0, 3), (1, 2), (2, 2)]})
    two = made_group({"eval/train/r": [(0, 0.5), (1, 3.0)], f"eval/train/{figure}": [(0, 1.0), (1, 2.5)]})
    found = front([one, two], "train", "r", figure)
    assert found.lower is lower
    assert found.paths[1] == [(0, 0.5, 1.0), (1, 3.0, 2.5)]
    assert found.best == best(found)
    assert found.best == ({(0, 2), (1, 0), (1, 1)} if lower else {(0, 0), (1, 1)})


def test_the_page_has_all_of_it_and_fetches_nothing(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "some" / "page.html"
    assert compare.main([*map(str, runs), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    page = Page(out)
    gold = next(row for row in page.cells if row[0] == "train/shapes_gold")
    assert "±" in gold[2]
    assert "±" not in gold[3]
    charts = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert charts.count("shapes_gold (train)") == 3  # over samples, queries and hours
    assert "shapes_agreement against shapes_gold" in charts
    assert {split: len(sheets) for split, sheets in page.sprites.items()} == {"0": 2, "1": 2}
    assert "runs with seed 0" in page.text
    assert PROMPTS[1] in page.text
    assert all(name != "onerror" for _, name, _ in page.attributes)
    assert refers_outside(page) == []


def test_scripts_get_the_same_as_json(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main([*map(str, runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    first, second = found["groups"]
    assert found["reward"] == "shapes_agreement"
    assert first["evaluation"]["train/shapes_gold"]["after"]["runs"] == 2
    assert second["evaluation"]["train/shapes_gold"]["after"]["error"] is None
    assert second["spent"]["queries"]["mean"] == 96.0
    assert [point["x"] for point in first["curves"]["eval/train/shapes_gold"]["samples"]] == [0.0, 24.0, 48.0]
    assert {one["figure"] for one in found["fronts"]} == {"shapes_gold", "diversity"}


def test_runs_without_a_seed_in_common_have_no_pictures_side_by_side(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert compare.main([str(runs[1]), str(runs[2]), "--out", str(out)]) == 0
    assert "have no seed in common" in Page(out).text


def test_what_cannot_be_compared_is_one_sentence(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: There is no run in {tmp_path} (no config.yaml).\n"
    assert compare.main([str(runs[0]), "--reward", "nope"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: No evaluation of these runs has a figure 'nope'; there are diversity, shapes_agr")
    (tmp_path / "file").touch()
    assert compare.main([str(runs[0]), "--out", str(tmp_path / "file" / "page.html")]) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_run_counts_once_by_whatever_path_and_however_often_it_was_copied(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    link = tmp_path / "link"
    link.symlink_to(runs[0])
    ways = [str(runs[0]), f"{runs[0]}/../{runs[0].name}", str(link)]
    assert compare.main([*ways, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["groups"][0]["runs"], found["notes"]) == ([str(runs[0].resolve())], [])
    shutil.copytree(runs[0], runs[0].parent / "copy")
    page = tmp_path / "page.html"
    assert compare.main([*map(str, runs), str(runs[0].parent / "copy"), "--out", str(page)]) == 0
    said = "copy does not count: it has the seed and the configuration of a-0."
    assert f"warning: {said}\n" in capsys.readouterr().err
    assert said in Page(page).text
    assert read_groups([*runs, runs[0].parent / "copy"])[0].seeds == [0, 1]


def test_the_page_takes_no_place_but_that_of_an_earlier_one(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = runs[0] / "config.yaml", tmp_path / "page.html"
    before = config.read_bytes()
    for kept in (config, write_report(Records(runs[0]))):
        assert compare.main([*map(str, runs), "--out", str(kept)]) == 1
        assert f"error: {kept} is there and is no page of cluster.compare" in capsys.readouterr().err
    assert config.read_bytes() == before
    assert compare.main([str(runs[0]), "--out", str(out)]) == 0
    first = out.read_bytes()
    assert compare.main([*map(str, runs), "--out", str(out)]) == 0
    assert out.read_bytes() != first
    capsys.readouterr()
    for folder, said in ((str(tmp_path), str(tmp_path)), ("", ".")):
        assert compare.main([str(runs[0]), "--out", folder]) == 1
        assert capsys.readouterr().err == f"error: {said} is a folder; name a file with --out.\n"


def test_runs_that_have_done_nothing_are_compared_too(make_config: Make, tmp_path: Path) -> None:
    run = make_up(make_config("name=empty"), ()).path
    for folder in ("metrics.parquet", "samples.parquet"):
        for part in (run / folder).iterdir():
            part.unlink()
    assert compare.main([str(run), "--out", str(tmp_path / "page.html")]) == 0
    assert "No evaluation is on record yet." in Page(tmp_path / "page.html").text


def test_it_is_written_without_ray_or_torch(runs: list[Path], tmp_path: Path) -> None:
    words = [*map(str, runs), "--out", str(tmp_path / "page.html")]
    code = f"import sys, cluster.compare as c; c.main({words!r}); print(sorted(set(sys.modules) & {HEAVY}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


RUN = "combination.standardise=run"


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ([], ["learner.lr=0.01"], ""),
        ([RUN], [RUN, "objective.name=d3po"], ""),
        ([], ["objective.name=d3po"], "ppod: 1 shapes_agreement, standardised as ppod does; d3po: 1 shapes_agreement"),
        ([], ["combination.standardise=batch"], "1 shapes_agreement, combination.standardise=batch"),
        ([RUN], ["rewards.shapes_agreement.weight=2", RUN], "2 shapes_agreement, combination.standardise=run"),
        ([], ["combination.whiten=true"], "1 shapes_agreement, standardised as ppod does"),
    ],
)
def test_combined_rewards_of_other_units_are_not_drawn_together(
    make_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], one: list[str], other: list[str], said: str
) -> None:
    words = {"one": one, "other": other}
    paths = [make_up(make_config(f"name={name}", "iterations=2", *own), (0, 2)).path for name, own in words.items()]
    out = tmp_path / "page.html"
    assert compare.main([*map(str, paths), "--out", str(out)]) == 0
    page, warned = Page(out), capsys.readouterr().err
    charts = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    assert charts.count("reward/mean (training)") == (0 if said else 3)
    assert charts.count("shapes_agreement (training)") == 3  # raw scores can always be compared
    assert ("The combined reward (reward/mean) is not drawn" in page.text) == bool(said)
    assert said in warned
    assert said in page.text


def test_what_is_not_as_it_seems_is_noted(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seeds that differ, iterations that are not on record, and a configuration that is none."""
    assert compare.main([*map(str, runs), "--json"]) == 0
    assert "The seeds differ (" in (seeds := json.loads(capsys.readouterr().out)["notes"])[-1]
    (runs[0] / "metrics.parquet/000003.parquet").unlink()
    assert compare.main([*map(str, runs), "--json"]) == 0
    lost, *others = json.loads(capsys.readouterr().out)["notes"]
    assert lost.startswith("a-0: Nothing is on record of 1 iteration of 4 (3)")
    assert others == seeds
    (runs[2] / "config.yaml").write_text("objective: 5\n")
    assert compare.main([*map(str, runs)]) == 1
    assert "b-0/config.yaml is not what a run saved; leave this one out." in capsys.readouterr().err


def test_secrets_are_on_no_page_and_make_no_other_group(
    make_config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds, between which a token was rotated."""
    words = [("one", "s3cret", "0"), ("two", "an0ther", "1"), ("three", "a-th1rd", "1")]
    paths = []
    for name, token, seed in words:
        run = make_up(make_config(f"name={name}", "iterations=2", f"seed={seed}"), (0, 2))
        config = yaml_text.read((run.path / CONFIG).read_text())
        config["rewards"]["shapes_gold"]["options"] = dict.fromkeys(("token", "hf_token", "secret", "passwd"), token)
        (run.path / CONFIG).write_text(yaml_text.write(config))
        paths.append(str(run.path))
    out = tmp_path / "page.html"
    assert compare.main([*paths, "--out", str(out)]) == 0
    assert compare.main([*paths, "--json"]) == 0
    said = capsys.readouterr()
    everything = out.read_text() + said.out + said.err
    assert not [token for _, token, _ in words if token in everything]
    (group,) = read_groups([Path(path) for path in paths])
    assert (group.name, group.seeds) == ("ppod", [0, 1])
    assert group.notes == ["three does not count: it has the seed and the configuration of two."]
    options = ", ".join(f"rewards.shapes_gold.options.{name}" for name in ("hf_token", "passwd", "secret", "token"))
    assert (
        f"ppod: the values of {options} are masked as secrets and differ between its runs; where one is no secret, "
        "these runs differ in more than their seed."
    ) in notes([group])


def test_before_and_after_are_evaluations_that_all_seeds_have() -> None:
    group = made_group({"eval/train/a": [(0, 0.0), (4, 2.0), (8, 9.0)]}, {"eval/train/a": [(0, 1.0), (4, 4.0)]})
    before, after = final(group, "eval/train/a")
    assert before is not None
    assert after is not None
    assert (before.mean, after.mean) == (0.5, 3.0)
