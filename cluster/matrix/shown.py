"""An evaluation for people: tables, a picture of the fronts, and pictures of the models at equal seeds side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from cluster.matrix.entries import Entry
from cluster.matrix.figures import point
from cluster.matrix.store import Store
from cluster.records.files import replacing
from cluster.records.pictures import grid, shorten
from cluster.text import figure, shown

_ROWS, _COLUMNS, _MODELS = 6, 3, 6  # of the picture: prompts, samples of each, and models
_GAP, _HEAD = 20, 26  # pixels
_SHORT = {"prompt_averaged_fid": "prompt-averaged FID", "kid": "KID", "vendi": "Vendi", "diversity": "diversity"}


def tables(result: Mapping[str, Any]) -> Iterator[Table]:
    """One table of rewards, one of each features, one of the variance, and one of implicit rewards, as there are."""
    records = result["models"]
    trained = set(result["trained_on"])
    for reward in records[0]["rewards"]:
        table = Table(_model(), "mean", "95 %", "beats the base", "95 %", title=_title(reward, reward in trained))
        for record in records:
            found = record["rewards"][reward]
            table.add_row(Text(shown(record["model"])), *_cells(found["mean"]), *_cells(found.get("win_rate")))
        yield table
    for features in records[0]["features"]:
        table = Table(_model(), *_SHORT.values(), title=f"within a prompt, features of {escape(features)}")
        for record in records:
            found = record["features"][features]
            table.add_row(Text(shown(record["model"])), *(_cells(found[name])[0] for name in _SHORT))
        yield table
    if "variance" in records[0]:
        table = Table(_model(), "reward", "variance", "prompt", "x_T", "prompt and x_T", "chain")
        for record in records:
            for reward, parts in record["variance"].items():
                table.add_row(Text(shown(record["model"])), Text(reward), *_shares(parts))
        yield table
    if "implicit_accuracy" in records[-1]:
        table = Table(_model(), "implicit accuracy", "pairs")
        for record in records:
            if found := record.get("implicit_accuracy"):
                cell = f"{found['value']:.3f} ± {found['error']:.3f}"
                table.add_row(Text(shown(record["model"])), cell, str(found["pairs"]))
        yield table


def _model() -> Column:
    return Column("model", overflow="fold")  # names of checkpoints differ at their end


def _title(reward: str, trained: bool) -> str:
    return f"{escape(reward)} ({'trained on' if trained else 'not trained on'})"


def _cells(estimate: Mapping[str, float | None] | None) -> tuple[str, str]:
    if estimate is None or (value := estimate["value"]) is None:
        return "", ""
    if (error := estimate["error"]) is None:
        return figure(value), ""
    low, high = estimate["low"], estimate["high"]
    assert low is not None
    assert high is not None
    return f"{figure(value)} ± {figure(error)}", f"{figure(low)} to {figure(high)}"


def _shares(parts: Mapping[str, float] | None) -> list[str]:
    if parts is None:
        return [""] * 5
    total = parts["total"]
    shares = [f"{parts[name] / total:.0%}" if total else "" for name in ("prompt", "noise", "both", "chain")]
    return [figure(total), *shares]


def write_fronts(path: Path, result: Mapping[str, Any]) -> Path | None:
    """Draw each reward against the diversity in the first features, the fronts as lines; `None` without features."""
    records = result["models"]
    rewards, features = list(records[0]["rewards"]), next(iter(records[0]["features"]), None)
    if features is None:
        return None
    plt.switch_backend("Agg")
    figure, axes = plt.subplots(1, len(rewards), figsize=(5.2 * len(rewards), 4.2), layout="constrained", squeeze=False)
    groups = list(dict.fromkeys(record["group"] for record in records))
    colours = dict(zip(groups, plt.rcParams["axes.prop_cycle"].by_key()["color"] * len(groups), strict=False))
    for axis, reward in zip(axes[0], rewards, strict=True):
        for group in groups:
            places = np.array([point(r, reward, features) for r in records if r["group"] == group], float)
            axis.plot(*places.T, "o", color=colours[group], label=shown(group))
        for line in result["fronts"]:
            if (line["reward"], line["features"]) == (reward, features):
                on = [point(record, reward, features) for record in records if record["model"] in line["models"]]
                axis.plot(*np.array(sorted(on), float).T, color=colours[line["group"]], linewidth=1, alpha=0.6)
        axis.set(xlabel=reward, ylabel=f"diversity within a prompt ({features})")
        axis.grid(alpha=0.3)
    axes[0][0].legend()
    with replacing(path) as file:
        figure.savefig(file, dpi=110, format="png")
    plt.close(figure)
    return path


def write_grid(path: Path, store: Store, entries: Sequence[Entry]) -> Path:
    """Write the first pictures of the first prompts, a block a model; what stands in one place has one noise."""
    chosen = [*entries[:1], *entries[1:][-(_MODELS - 1) :]]
    sheets = [_sheet(store, entry) for entry in chosen]
    width = sum(sheet.width + _GAP for sheet in sheets) - _GAP
    whole = Image.new("RGB", (width, _HEAD + sheets[0].height), "white")
    pen, font, left = ImageDraw.Draw(whole), ImageFont.load_default(16), 0
    for entry, sheet in zip(chosen, sheets, strict=True):
        pen.text((left + 4, 2), shorten(shown(entry.name), pen, font, sheet.width - 8), fill="black", font=font)
        whole.paste(sheet, (left, _HEAD))
        left += sheet.width + _GAP
    with replacing(path) as file:
        whole.save(file, format="PNG")
    return path


def _sheet(store: Store, entry: Entry) -> Image.Image:
    cells: dict[tuple[int, int], np.ndarray] = {}
    prompts: dict[int, str] = {}
    for number, request in enumerate(entry.draw.requests):
        places = list(zip(request.prompt_index, request.sample_index, strict=True))
        if any(prompt < _ROWS and sample < _COLUMNS for prompt, sample in places):
            pixels, _ = store.pictures(entry.draw, number)
            for row, (prompt, sample) in enumerate(places):
                if prompt < _ROWS and sample < _COLUMNS:
                    cells[prompt, sample], prompts[prompt] = pixels[row], request.prompts[row]
    columns = 1 + max(sample for _, sample in cells)
    sheet = np.stack([np.stack([cells[prompt, sample] for sample in range(columns)]) for prompt in sorted(prompts)])
    return grid(sheet, [prompts[prompt] for prompt in sorted(prompts)])
