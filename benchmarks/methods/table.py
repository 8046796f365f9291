"""The table and the pictures of a grid: means over seeds with their standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.methods.cells import failure, is_finished
from benchmarks.methods.figures import changes, figures_of, mean_and_error
from benchmarks.methods.grid import Cell, Grid, queries
from cluster.errors import ConfigError
from cluster.text import shown

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Of each world and arm the figures of its seeds: `changes` of each.
Results = Mapping[tuple[str, str], Sequence[Mapping[str, float]]]
_WHOLE = ("queries", "evaluations", "seconds")
_HEADS = {"kl": "KL, nats of a chain", "evaluations": "network evaluations"}
_PANELS = ("kl", "KL to the pretrained model, nats of a chain"), ("train diversity kept", "diversity kept")


def collect(cells: Sequence[Cell]) -> tuple[Results, list[str]]:
    """The figures of finished cells, and a sentence on each of the others and on each that dropped samples."""
    results: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    notes = []
    for cell in cells:
        if not is_finished(cell):
            notes.append(f"{cell.name}: {failure(cell) or 'not finished yet.'}")
            continue
        try:
            figures = figures_of(cell)
        except ConfigError as error:
            notes.append(str(error))
            continue
        results.setdefault((cell.world, cell.arm), []).append(changes(figures))
        if dropped := queries(cell.config) - figures["queries"]:
            wanted = queries(cell.config)
            notes.append(f"{cell.name} showed the reward {dropped:,.0f} of {wanted:,} images less, which were dropped.")
    return results, notes


def rows(results: Results) -> tuple[list[str], list[list[str]]]:
    """The table as texts: the head, and a row of each world and arm with mean ± standard error over its seeds."""
    names = list(dict.fromkeys(name for found in results.values() for of in found for name in of))
    table = []
    for (world, arm), found in results.items():
        row = [world, arm, str(len(found))]
        for name in names:
            values = [of[name] for of in found if name in of]
            row.append(_shown(name, *mean_and_error(values)) if values else "")
        table.append(row)
    return ["world", "arm", "runs", *(_HEADS.get(name, name) for name in names)], table


def _shown(name: str, mean: float, error: float) -> str:
    digits = 0 if name in _WHOLE else 2 if name == "kl" else 3
    sign = "+" if name.endswith("change") else ""
    text = f"{mean:{sign},.{digits}f}"
    return text if np.isnan(error) or (name in _WHOLE and not error) else f"{text} ± {error:,.{digits}f}"


def write(grid: Grid, results: Results, notes: Sequence[str], folder: Path) -> None:
    """Write the table as Markdown to `table.md`, and print it."""
    head, table = rows(results)
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *table)]
    said = ["", *(f"- {line}" for line in notes)] if notes else []
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n".join([grid.question, "", *lines, *said]) + "\n"
    (folder / "table.md").write_text(text, encoding="utf-8")
    printed = Table(*head, title=escape(grid.question))
    for row in table:
        printed.add_row(*row)
    console = Console(width=None if Console().is_terminal else 240)
    console.print(printed)
    for line in notes:
        console.print(shown(line), markup=False, highlight=False, soft_wrap=True)


def draw(results: Results, folder: Path) -> None:
    """A picture of each world: gold against KL and against diversity, a point an arm, with standard errors.

    Where there is no gold score the reward takes its place.
    """
    for world in dict.fromkeys(world for world, _ in results):
        arms = {arm: found for (of, arm), found in results.items() if of == world}
        there = set.intersection(*(set(of) for found in arms.values() for of in found))
        up = next(name for name in ("train gold change", "train reward change") if name in there)
        panels = [(name, label) for name, label in _PANELS if name in there]
        figure, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 5), layout="constrained", squeeze=False)
        for axis, (across, label) in zip(axes[0], panels, strict=True):
            for arm, found in arms.items():
                x, y = (mean_and_error([of[name] for of in found]) for name in (across, up))
                bars = {f"{way}err": np.nan_to_num(error) for way, (_, error) in (("x", x), ("y", y))}
                axis.errorbar(x[0], y[0], **bars, marker="o", capsize=2)
                axis.annotate(arm, (x[0], y[0]), xytext=(5, 4), textcoords="offset points")
            axis.set(xlabel=label, ylabel=up.replace("train ", "trained prompts: "))
            axis.grid(alpha=0.3)
            if across != "kl":  # in every panel what is further to the left is nearer to the pretrained model
                axis.invert_xaxis()
        figure.suptitle(world)
        figure.savefig(folder / f"{world}.png", dpi=110)
        plt.close(figure)
        print(f"picture: {folder / f'{world}.png'}")
