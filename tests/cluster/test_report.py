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

from cluster.config import Config
from cluster.report import write_report
from cluster.rundir import RunDirectory

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
    return Page(write_report(synthetic(make_config("name=a<b>c"), (0, 1, 2, 3, 4))))


def test_the_figures_are_before_after_and_change(page: Page) -> None:
    assert page.rows[0] == ["metric", "before", "after", "change"]
    rows = {name: figures for name, *figures in page.rows[1:]}
    assert rows == {
        "train/shapes_gold": ["0.250", "0.650", "+0.400"],
        "held_out/shapes_gold": ["0.500", "0.250", "-0.250"],
    }


def test_the_head_counts_iterations_and_images_and_names_the_run(page: Page) -> None:
    assert "4 iterations of ppod, 48 training images." in page.text
    assert "a<b>c" in page.text  # escaped, or it would have been read as a tag


def test_the_configuration_is_on_the_page(page: Page) -> None:
    assert "request_size: 4" in page.text


def test_curves_and_the_pictures_before_and_after_are_embedded(page: Page) -> None:
    curves, train, held_out = map(decode, page.images)
    assert curves.std() > 0
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
