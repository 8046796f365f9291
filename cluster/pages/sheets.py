"""The pictures of a page: grids of evaluations as they are on disk, of which the page shows cell by cell."""

from __future__ import annotations

import base64
import io
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from cluster.records.grids import Shown, list_grids, shown_in
from cluster.records.pictures import boxes
from cluster.records.reading import Records

log = logging.getLogger(__name__)

TIMES = 9  # evaluations of a split on a page, at most: the first, the last, and those evenly between
COLUMNS = 4  # samples of a prompt on a page
_LARGE = 150_000  # bytes of a PNG, from which it is sent as JPEG
_QUALITY = 85


@dataclass(frozen=True)
class Sheet:
    """A grid, ready for a page."""

    iteration: int
    source: str  # a data URL
    size: tuple[int, int]
    small: bool  # drawn pixel by pixel


@dataclass(frozen=True)
class Cell:
    """A picture within a sheet, as CSS places the sheet in a window that is as large as the picture."""

    sample: int
    style: str


@dataclass(frozen=True)
class Row:
    """The samples of a prompt."""

    prompt: str
    index: int
    cells: list[Cell]
    scores: dict[int, float | None]  # mean combined score of all its samples, by iteration


@dataclass(frozen=True)
class Split:
    """The pictures of a split over time, at the same seeds."""

    name: str
    seed: int | None
    sheets: list[Sheet]
    rows: list[Row]
    aspect: float  # width of a picture over its height
    samples: dict[int, list[dict[str, Any]]]  # of the first and the last evaluation that is shown


def read_splits(run: Records, weights: Mapping[str, float], times: int = TIMES) -> list[Split]:
    """The pictures of a run, split by split; torn files cost a warning.

    Args:
        run: Of which.
        weights: Of the rewards that are trained on, for scores.
        times: Evaluations at most.
    """
    found = []
    for name, grids in list_grids(run.path).items():
        sheets = _sheets(_spread([path for path in grids.items() if path[1].stat().st_size], times))
        if not sheets:
            continue
        first, last = sheets[0].iteration, sheets[-1].iteration
        samples = {number: [row for row in run.samples(number) if row.get("split") == name] for number in {first, last}}
        rows, aspect = _rows(shown_in(samples[last], name), sheets[-1], samples, weights)
        seed = next((row["seed"] for row in samples[last]), None)
        found.append(Split(name, seed, sheets, rows, aspect, samples))
    return found


def score(row: Mapping[str, Any], weights: Mapping[str, float]) -> float | None:
    """The weighted sum of a sample's rewards, each on its own scale; `None` where one could not judge it."""
    scores = [weight * row[name] if row.get(name) is not None else math.nan for name, weight in weights.items()]
    return sum(scores) if scores and math.isfinite(sum(scores)) else None


def prompt_scores(rows: Iterable[Mapping[str, Any]], weights: Mapping[str, float]) -> dict[int, tuple[str, float]]:
    """The text of each prompt by its index, and the mean score of its samples."""
    found: dict[int, tuple[str, list[float]]] = {}
    for row in rows:
        if (value := score(row, weights)) is not None:
            found.setdefault(row["prompt_index"], (row["prompt"], []))[1].append(value)
    return {index: (prompt, sum(values) / len(values)) for index, (prompt, values) in found.items()}


def _spread(found: Sequence[tuple[int, Path]], most: int) -> list[tuple[int, Path]]:
    if len(found) <= most:
        return list(found)
    return [found[round(place * (len(found) - 1) / (most - 1))] for place in range(most)]


def _sheets(grids: Iterable[tuple[int, Path]]) -> list[Sheet]:
    sheets: list[Sheet] = []
    for iteration, path in grids:
        try:
            data, kind = path.read_bytes(), "png"
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                size = image.size
                small = len(data) <= _LARGE
                if not small:
                    buffer = io.BytesIO()
                    image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY)
                    data, kind = buffer.getvalue(), "jpeg"
        except (OSError, SyntaxError, ValueError) as error:
            log.warning("%s cannot be read and is not on the page (%s).", path, error)
            continue
        sheets.append(Sheet(iteration, f"data:image/{kind};base64,{base64.b64encode(data).decode()}", size, small))
    return [sheet for sheet in sheets if sheet.size == sheets[-1].size]


def _rows(
    shown: Shown | None,
    sheet: Sheet,
    samples: Mapping[int, Sequence[Mapping[str, Any]]],
    weights: Mapping[str, float],
) -> tuple[list[Row], float]:
    width, height = sheet.size
    try:
        placed = None if shown is None else boxes(sheet.size, len(shown.rows), shown.columns)
    except ValueError:
        placed = None
    if shown is None or placed is None:  # nothing is known of what it shows
        return [Row("", 0, [Cell(0, _style(sheet.size, (0, 0, width, height)))], {})], width / height
    scores = {number: prompt_scores(rows, weights) for number, rows in samples.items()}
    rows = []
    for index, row in zip(shown.rows, placed, strict=True):
        cells = [Cell(sample, _style(sheet.size, box)) for sample, box in enumerate(row[:COLUMNS])]
        own = {number: of[index][1] if index in of else None for number, of in scores.items()}
        rows.append(Row(shown.samples[index, 0]["prompt"], index, cells, own))
    left, upper, right, lower = placed[0][0]
    return rows, (right - left) / (lower - upper)


def _style(size: tuple[int, int], box: tuple[int, int, int, int]) -> str:
    left, upper, right, lower = box
    wide, high = right - left, lower - upper
    return (
        f"width:{100 * size[0] / wide:.3f}%;height:{100 * size[1] / high:.3f}%;"
        f"left:{-100 * left / wide:.3f}%;top:{-100 * upper / high:.3f}%"
    )
