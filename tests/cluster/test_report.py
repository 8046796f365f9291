"""The report of a synthetic run: its figures, its pictures, and nothing that needs a network."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster import report
from cluster.config import Config
from cluster.records.rundir import RunDirectory
from cluster.report import write_report

Make = Callable[..., Config]

COLOURS = {("train", 0): "red", ("train", 4): "green", ("held_out", 0): "blue", ("held_out", 4): "yellow"}


class Page(HTMLParser):
    """Table rows, image sources, and every attribute."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.images: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text, self._cell = "", False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        self._cell = tag in ("td", "th")
        if tag == "tr":
            self.rows.append([])
        if tag == "img":
            self.images += [value for name, value in attrs if name == "src" and value]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._cell and data.strip():
            self.rows[-1].append(data)


def synthetic(config: Config, iterations: tuple[int, ...]) -> RunDirectory:
    run = RunDirectory.create(config)
    for iteration in iterations:
        metrics = {"samples": 12.0, "reward/mean": 0.1 * iteration} if iteration else {}
        if iteration in (0, 4):
            metrics |= {
                "eval/train/shapes_gold": 0.25 + iteration / 10,
                "eval/held_out/shapes_gold": 0.5 - iteration / 16,
            }
            for split in ("train", "held_out"):
                run.write_image(f"{split}-{iteration:06d}", Image.new("RGB", (40, 30), COLOURS[split, iteration]))
        run.record(iteration, metrics, {})
    return run


def decode(source: str) -> np.ndarray:
    kind, data = source.split(",", 1)
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))).convert("RGB"))


def centre(picture: np.ndarray, colour: str) -> float:
    """Mean x of the pixels of a colour."""
    wanted = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    xs = np.nonzero((picture == wanted).all(-1))[1]
    assert len(xs) == 40 * 30
    return float(xs.mean())


@pytest.fixture
def page(make_config: Make) -> Page:
    return Page(write_report(synthetic(make_config("name=a<b>c", "iterations=4"), (0, 1, 2, 3, 4))))


def test_the_figures_are_before_after_and_change(page: Page) -> None:
    assert page.rows[0] == ["metric", "before", "after", "change"]
    rows = {name: figures for name, *figures in page.rows[1:]}
    assert rows == {
        "train/shapes_gold": ["0.250", "0.650", "+0.400"],
        "held_out/shapes_gold": ["0.500", "0.250", "-0.250"],
    }


def test_the_head_counts_iterations_and_images_and_names_the_run(page: Page) -> None:
    assert "4 iterations of ppod, 48 training images." in page.text
    assert "shapes_agreement (weight 1), shapes_gold (watched)" in page.text
    assert "a<b>c" in page.text  # escaped, or it would have been read as a tag


def test_the_configuration_is_on_the_page(page: Page) -> None:
    assert "request_size: 4" in page.text


def test_curves_and_the_pictures_before_and_after_are_embedded(page: Page) -> None:
    curves, train, held_out = map(decode, page.images)
    assert len(np.unique(curves.reshape(-1, curves.shape[-1]), axis=0)) > 50  # coloured lines, not empty axes
    assert centre(train, "red") < centre(train, "green")
    assert centre(held_out, "blue") < centre(held_out, "yellow")


def test_the_page_refers_to_nothing_outside_itself(page: Page) -> None:
    for name, value in page.attributes:
        assert name not in ("href", "srcset", "action")
        if name == "src":
            assert (value or "").startswith("data:")
    assert not re.search(r"url\(|@import|<script|<link", page.source)


def test_a_run_that_has_only_been_evaluated_has_a_report(make_config: Make) -> None:
    page = Page(write_report(synthetic(make_config("name=young"), (0,))))
    assert ["train/shapes_gold", "0.250", "0.250", "+0.000"] in page.rows
    assert len(page.images) == 3


def test_writing_the_report_again_shows_the_run_as_it_is_now(make_config: Make) -> None:
    run = synthetic(make_config("name=grows"), (0, 1))
    write_report(run)
    run.record(4, {"eval/train/shapes_gold": 0.75, "samples": 12.0}, {})
    run.write_image("train-000004", Image.new("RGB", (40, 30), "green"))
    page = Page(write_report(run))
    assert ["train/shapes_gold", "0.250", "0.750", "+0.500"] in page.rows
    assert centre(decode(page.images[1]), "red") < centre(decode(page.images[1]), "green")


def test_a_run_that_has_done_nothing_yet_has_a_page_that_says_so(make_config: Make) -> None:
    run = RunDirectory.create(make_config("name=empty", "iterations=4"))
    page = Page(write_report(run))
    assert page.images == page.rows == []
    for sentence in ("No evaluation is", "No metrics are", "No pictures are"):
        assert f"{sentence} on record yet." in page.text
    assert "0 of 4 iterations of ppod, 0 training images." in page.text


def test_an_own_reward_any_split_and_an_unknown_objective_are_on_the_page(make_config: Make) -> None:
    run = RunDirectory.create(make_config("name=own", "iterations=1"))
    figures = {"score/brightness": 0.25, "eval/elsewhere/brightness": 0.5, "new_loss": 1.0, "samples": 8.0}
    run.record(1, figures, {})
    run.write_image("elsewhere-000001", Image.new("RGB", (40, 30), "red"))
    page = Page(write_report(run))
    assert ["elsewhere/brightness", "0.500", "0.500", "+0.000"] in page.rows
    assert "elsewhere" in page.text
    assert len(page.images) == 2
    assert centre(decode(page.images[1]), "red") < 40  # the only grid, as it is


@pytest.mark.parametrize(
    "name", ["<script>x</script>", "[bold]", "\x1b[31m", "a&b", '"><img src=http://x>', "{{ 7 * 7 }}"]
)
def test_what_others_wrote_is_shown_and_not_obeyed(make_config: Make, name: str) -> None:
    run = synthetic(make_config("name=hostile"), (0, 4))
    run.record(5, {f"eval/train/{name}": 0.5, f"score/{name}": 0.5}, {})
    page = Page(write_report(run))
    shown = name.replace("\x1b", "\\x1b")
    assert [f"train/{shown}", "0.500", "0.500", "+0.000"] in page.rows
    assert "<script" not in page.source
    assert "\x1b" not in page.source
    assert all((source or "").startswith("data:") for source in page.images)


def test_torn_pictures_and_a_lost_configuration_cost_a_sentence_and_not_the_page(
    make_config: Make, caplog: pytest.LogCaptureFixture
) -> None:
    run = synthetic(make_config("name=torn"), (0, 4))
    torn = run.path / "images" / "train-000004.png"
    torn.write_bytes(torn.read_bytes()[:40])
    (run.path / "images" / "held_out-000000.png").write_bytes(b"")
    (run.path / "images" / "held_out-000004.png").write_bytes(b"")
    (run.path / "config.yaml").write_text("")
    page = Page(write_report(run))
    assert len(page.images) == 2  # the curves, and the first grid of the training prompts
    assert str(torn) in caplog.text
    assert "config.yaml is not what the run saved" in page.text


def test_the_command_writes_the_pages_of_runs(make_config: Make, capsys: pytest.CaptureFixture[str]) -> None:
    run = synthetic(make_config("name=first"), (0, 4))
    assert report.main([str(run.path)]) == 0
    assert capsys.readouterr().out.split() == [str(run.path / "report.html")]
    assert report.main([str(run.path / "images")]) == 1
    assert capsys.readouterr().err == f"error: There is no run in {run.path / 'images'} (no config.yaml).\n"
    assert report.main(["x" * 5000]) == 1  # longer than a path may be
    assert capsys.readouterr().err.startswith("error: There is no run in xxx")
    with pytest.raises(SystemExit) as ended:
        report.main(["--help"])
    assert ended.value.code == 0
