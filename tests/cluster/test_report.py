"""The report of a run: its figures, curves and pictures, whatever is there of it, and nothing that needs a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cluster import report
from cluster.config import Config
from cluster.errors import WriteError
from cluster.pages.report import write_report
from cluster.records.origin import note_start
from cluster.records.rundir import RunDirectory
from tests.support.made_up_run import PROMPTS, make_up
from tests.support.page import Page, refers_outside

Make = Callable[..., Config]


@pytest.fixture
def run(make_config: Make) -> RunDirectory:
    return make_up(make_config("name=a<b>c", "iterations=4", "learner.lr=0.002"), (0, 2, 4))


@pytest.fixture
def page(run: RunDirectory) -> Page:
    return Page(write_report(run))


def test_the_figures_are_before_after_and_change(page: Page, run: RunDirectory) -> None:
    assert page.cells[0] == ["metric", "before", "after", "change"]
    rows = {row[0]: row[1:] for row in page.cells[1:] if len(row) == 4}
    (_, before), *_, (_, after) = run.metrics()["eval/train/shapes_gold"]
    assert rows["train/shapes_gold"] == [f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f}"]
    assert rows["held_out/diversity"] == ["0.700", "0.500", "-0.200"]
    assert next(iter(rows)).startswith("train/")


def test_the_head_counts_iterations_and_images_and_names_the_run(page: Page) -> None:
    assert "4 iterations of ppod, 48 training images." in page.text
    assert "shapes_agreement (weight 1), shapes_gold (watched)" in page.text
    assert "a<b>c" in page.text  # escaped, or it would have been read as a tag
    assert "finished" in page.text


def test_there_is_a_panel_for_what_was_measured_and_a_line_for_what_was_constant(page: Page) -> None:
    charts = [value for tag, name, value in page.attributes if tag == "svg" and name == "aria-label"]
    for title in ("shapes_agreement", "shapes_gold", "Loss", "Learning rate", "Gradient norm before clipping", "extra"):
        assert title in charts
    assert "who worked when" in charts
    constant = [row for row in page.cells if row[0] in ("dropped", "time/sample")]
    assert constant == [["dropped", "0.000"], ["time/sample", "6.000"]]


def test_every_prompt_has_its_pictures_before_and_after_at_every_evaluation(page: Page) -> None:
    assert {split: len(sheets) for split, sheets in page.sprites.items()} == {"train": 3, "held_out": 3}
    assert all(sheet.startswith("data:image/png;base64,") for sheets in page.sprites.values() for sheet in sheets)
    for prompt in PROMPTS:
        assert prompt in page.text
        alternatives = [value for tag, name, value in page.attributes if tag == "img" and name == "alt"]
        assert f"{prompt}, before" in alternatives
        assert f"{prompt}, after" in alternatives
    assert "Best samples" in page.text
    assert "Worst samples" in page.text
    assert "Prompts that changed most" in page.text


def test_prompts_are_text(page: Page) -> None:
    hostile = PROMPTS[1]
    assert "<b>" in hostile
    assert page.text.count(hostile) > 2
    assert all(name != "onerror" for _, name, _ in page.attributes)


def test_what_differs_from_the_defaults_comes_first_and_the_rest_is_folded_away(page: Page) -> None:
    changed = {row[0]: row[1:] for row in page.cells if len(row) == 3}
    assert changed["learner.lr"] == ["0.002", "0.0003"]
    assert changed["iterations"] == ["4", "100"]
    assert changed["rewards.shapes_gold.weight"] == ["0.0", "1.0"]
    assert "seed" not in changed
    assert page.source.index("differs from the default") < page.source.index("The whole configuration")
    assert "request_size: 4" in page.text


def test_it_says_where_the_run_comes_from_and_how_to_repeat_it(run: RunDirectory) -> None:
    note_start(run.path, ["python", "-m", "cluster.train", "x.yaml"], [{"processor": "a chip", "cpus": 2, "gpus": []}])
    page = Page(write_report(run))
    assert f"python -m cluster.train '{run.path}/config.yaml' 'name=a<b>c-again'" in page.text
    assert "a chip, 2 cores" in page.text
    assert ["torch"] in [row[:1] for row in page.cells]


def test_warnings_of_the_run_are_on_top(run: RunDirectory) -> None:
    line = {"iteration": 3, "sentence": "The gold <i>score</i> falls.", "rule": "gold"}
    (run.path / "warnings.jsonl").write_text(json.dumps(line) + "\n")
    page = Page(write_report(run))
    assert "Iteration 3 The gold <i>score</i> falls." in page.text
    assert page.source.index("Warnings") < page.source.index("Evaluation")


def test_bands_are_drawn_where_other_seeds_are(run: RunDirectory, make_config: Make) -> None:
    assert "band" not in [value for _, name, value in Page(write_report(run)).attributes if name == "class"]
    make_up(make_config("name=other", "iterations=4", "learner.lr=0.002", "seed=1"), (0, 2, 4))
    make_up(make_config("name=else", "iterations=4", "learner.lr=0.003", "seed=2"), (0, 2, 4))
    page = Page(write_report(run))
    assert "Bands are the mean of 2 seeds and one standard error: this run, and other," in page.text
    assert any(str(value).startswith("band ") for _, name, value in page.attributes if name == "class")


def test_the_page_refers_to_nothing_outside_itself(page: Page) -> None:
    assert refers_outside(page) == []
    assert "default-src 'none'" in page.source


def test_a_run_that_has_only_been_evaluated_has_a_report(make_config: Make) -> None:
    run = RunDirectory.create(make_config("name=young"))
    run.record(0, {"eval/train/shapes_gold": 0.25}, {})
    run.write_image("train-000000", Image.new("RGB", (40, 30), "red"))
    page = Page(write_report(run))
    assert ["train/shapes_gold", "0.250", "0.250", "+0.000"] in page.cells
    assert len(page.sprites["train"]) == 1  # the grid as it is


def test_writing_the_report_again_shows_the_run_as_it_is_now(run: RunDirectory) -> None:
    write_report(run)
    run.record(5, {"eval/train/shapes_gold": 0.125, "samples": 12.0}, {})
    rows = {row[0]: row[2] for row in Page(write_report(run)).cells if len(row) == 4}
    assert rows["train/shapes_gold"] == "0.125"


def test_a_run_that_has_done_nothing_yet_has_a_page_that_says_so(make_config: Make) -> None:
    page = Page(write_report(RunDirectory.create(make_config("name=empty", "iterations=4"))))
    assert page.sprites == {}
    for sentence in ("No evaluation is", "No metrics are", "No pictures are"):
        assert f"{sentence} on record yet." in page.text
    assert "0 of 4 iterations of ppod, 0 training images." in page.text
    assert "stopped" in page.text


@pytest.mark.parametrize(
    "name", ["<script>x</script>", "[bold]", "\x1b[31m", "a&b", '"><img src=http://x>', "{{ 7 * 7 }}", "x" * 500]
)
def test_what_others_wrote_is_shown_and_not_obeyed(make_config: Make, name: str) -> None:
    run = RunDirectory.create(make_config("name=hostile"))
    for iteration in (0, 5):
        run.record(iteration, {f"eval/train/{name}": 0.5 * iteration, f"score/{name}": 0.5, f"{name}/a": iteration}, {})
    page = Page(write_report(run))
    shown = name.replace("\x1b", "\\x1b")
    assert [f"train/{shown}", "0.000", "2.500", "+2.500"] in page.cells
    assert page.tags.count("script") == 2
    assert "\x1b" not in page.source
    assert refers_outside(page) == []


def test_torn_pictures_and_a_lost_configuration_cost_a_sentence_and_not_the_page(
    run: RunDirectory, caplog: pytest.LogCaptureFixture
) -> None:
    torn = run.path / "images" / "train-000004.png"
    torn.write_bytes(torn.read_bytes()[:40])
    for number in (0, 2, 4):
        (run.path / "images" / f"held_out-00000{number}.png").write_bytes(b"")
    (run.path / "config.yaml").write_text("")
    page = Page(write_report(run))
    assert {split: len(sheets) for split, sheets in page.sprites.items()} == {"train": 2}
    assert str(torn) in caplog.text
    assert "config.yaml is not what the run saved" in page.text


def test_the_command_writes_the_pages_of_runs(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([str(run.path)]) == 0
    assert capsys.readouterr().out.split("\n")[0] == str(run.path / "report.html")
    assert report.main([str(run.path / "images")]) == 1
    assert capsys.readouterr().err == f"error: There is no run in {run.path / 'images'} (no config.yaml).\n"
    assert report.main(["x" * 5000]) == 1  # longer than a path may be
    assert capsys.readouterr().err.startswith("error: There is no run in xxx")
    with pytest.raises(SystemExit) as ended:
        report.main(["--help"])
    assert ended.value.code == 0


def test_scripts_get_the_same_as_json(run: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    run.record(5, {"loss": float("nan")}, {})
    assert report.main([str(run.path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert (found["name"], found["objective"], found["iterations_asked"]) == ("a<b>c", "ppod", 4)
    assert found["rewards"] == {"shapes_agreement": 1.0, "shapes_gold": 0.0}
    assert found["metrics"]["loss"]["values"][-1] is None
    assert found["metrics"]["lr"]["iterations"] == [1, 2, 3, 4]
    assert {row["key"] for row in found["changed_settings"]} >= {"learner.lr", "prompts.train"}
    assert not (run.path / "report.html").exists()


def test_a_disk_that_is_full_is_one_sentence(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(run: object) -> Path:
        raise WriteError("The disk is full.")

    monkeypatch.setattr(report, "write_report", full)
    assert report.main([str(run.path)]) == 1
    assert capsys.readouterr().err == "error: The disk is full.\n"


def test_a_folder_in_the_place_of_the_page_is_what_is_said_to_be_wrong(
    run: RunDirectory, capsys: pytest.CaptureFixture[str]
) -> None:
    page = run.path / "report.html"
    page.mkdir()
    assert report.main([str(run.path)]) == 1
    assert capsys.readouterr().err == f"error: {page} is a folder, where a file is to be written; move it away.\n"


def test_iterations_that_are_not_on_record_are_warned_of(run: RunDirectory) -> None:
    (run.path / "metrics.parquet/000002.parquet").unlink()
    page = Page(write_report(run))
    assert "Nothing is on record of 1 iteration of 4 (2), whose parts of metrics.parquet are missing" in page.text
