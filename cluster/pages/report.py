"""`report.html`: what a run did, whatever its rewards and its objective: figures, curves, pictures, who worked when."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cluster.pages import sheets
from cluster.pages.charts import COLOURS, Line, curves, spans
from cluster.pages.groups import Mean, mean_curve, read_config, siblings
from cluster.pages.panels import LEARNING, MACHINERY, OUTCOME, Panel, Series, constants, label, over_decades, panels
from cluster.pages.render import render
from cluster.pages.summary import summary, trained
from cluster.records.files import replacing
from cluster.records.grids import EVERYWHERE
from cluster.records.masking import masked_text
from cluster.records.reading import CONFIG, Records
from cluster.records.timeline import DRIVER
from cluster.text import counted, shown

SPLITS = {
    "train": "The prompts it trained on, unseen seeds",
    "held_out": "Held-out prompts",
    EVERYWHERE: "The same prompts with the adapter in every step, as an exported one",
}
_ITERATIONS = 4  # of the timeline
_WORKERS = 24  # of it, at most
_CHANGED, _BEST = 4, 6  # prompts that rose or fell most; samples that are best or worst
# The colour of each kind of work.
_WORK = {"sampling": 0, "rollout": 0, "learning": 1, "update": 1, "evaluation": 2, "score": 3, "checkpoint": 4}


def write_report(run: Records) -> Path:
    """Write the page of a run, finished or not; returns its path.

    Raises:
        WriteError: If the disk is full or broken.
    """
    path = run.path / "report.html"
    page = render("report.html", **_facts(run))
    with replacing(path) as file:
        file.write(page)
    return path


def _facts(run: Records) -> dict[str, Any]:
    series = run.metrics()
    found = summary(run, series)
    config = read_config(run.path)
    splits = sheets.read_splits(run, trained(config))
    others = siblings(run.path)
    seeds = [series, *(Records(path).metrics() for path in others)]
    drawn = panels(series)
    return {
        "run": found,
        "sentence": _sentence(found),
        "rows": found["evaluation"],
        "titles": SPLITS,
        "parts_of": {
            part: _charts([p for p in drawn if p.part == part], seeds) for part in (OUTCOME, LEARNING, MACHINERY)
        },
        "others": [path.name for path in others],
        "constants": {name: value for name, value in constants(series).items() if not name.startswith("eval/")},
        "splits": splits,
        "sprites": {split.name: [sheet.source for sheet in split.sheets] for split in splits},
        "changed_prompts": _changed_prompts(splits, trained(config)),
        "extremes": _extremes(splits, trained(config)),
        "timeline": _timeline(run),
        "work": _WORK,
        "yaml": masked_text(_text(run.path / CONFIG)),
    }


def _sentence(run: Mapping[str, Any]) -> str:
    done, asked, images = run["iterations"], run["iterations_asked"], counted(run["images"], "training image")
    if not isinstance(asked, int) or not run["objective"]:
        return f"{counted(done, 'iteration')}, {images}; {CONFIG} is not what the run saved."
    count = counted(done, "iteration") if done == asked else f"{done:,} of {counted(asked, 'iteration')}"
    rewards = ", ".join(
        f"{name} (weight {weight:g})" if weight else f"{name} (watched)" for name, weight in run["rewards"].items()
    )
    return shown(f"{count} of {run['objective']}, {images}. Rewards: {rewards}.")


def _charts(found: Sequence[Panel], seeds: Sequence[Series]) -> list[tuple[Panel, Markup, list[tuple[str, int]]]]:
    """Each panel with its chart, and the names and colours of its curves where there are several."""
    made = []
    for panel in found:
        lines = []
        for place, name in enumerate(panel.names):
            means = mean_curve([of.get(name, []) for of in seeds]) if len(seeds) > 1 else []
            lines.append(Line(label(name), seeds[0][name], _band(means), place % COLOURS))
        legend = [(line.label, line.colour) for line in lines]
        named = len(legend) > 1 or panel.names[0].startswith(("eval/", "score/"))
        chart = curves(lines, panel.title, unit=panel.unit, log=over_decades(panel.names))
        made.append((panel, chart, legend if named else []))
    return made


def _band(means: Iterable[tuple[float, Mean]]) -> list[tuple[float, float, float]]:
    return [(x, of.mean - of.error, of.mean + of.error) for x, of in means if math.isfinite(of.error)]


def _changed_prompts(splits: Sequence[sheets.Split], weights: Mapping[str, float]) -> list[dict[str, Any]]:
    """The prompts whose mean score has risen or fallen most from the first evaluation to the last."""
    found: list[dict[str, Any]] = []
    for split in (of for of in splits if of.name != EVERYWHERE and len(of.sheets) > 1):
        first, last = split.sheets[0].iteration, split.sheets[-1].iteration
        before, after = (sheets.prompt_scores(split.samples[number], weights) for number in (first, last))
        rows = {row.index: row for row in split.rows}
        for index in before.keys() & after.keys():
            change = after[index][1] - before[index][1]
            found.append(
                {
                    "split": split,
                    "prompt": before[index][0],
                    "before": before[index][1],
                    "after": after[index][1],
                    "change": change,
                    "cell": rows[index].cells[0] if index in rows and rows[index].prompt else None,
                }
            )
    found.sort(key=lambda row: -row["change"])
    risen = [row for row in found[:_CHANGED] if row["change"] > 0]
    return risen + [row for row in found[-_CHANGED:] if row["change"] < 0]


def _extremes(splits: Sequence[sheets.Split], weights: Mapping[str, float]) -> dict[str, list[dict[str, Any]]]:
    """The best and the worst samples of the last evaluation, of those that are pictured."""
    found: list[dict[str, Any]] = []
    for split in (of for of in splits if of.name != EVERYWHERE):
        scores = {
            (row["prompt_index"], row["sample_index"]): value
            for row in split.samples[split.sheets[-1].iteration]
            if (value := sheets.score(row, weights)) is not None
        }
        found += [
            {"split": split, "prompt": row.prompt, "cell": cell, "score": scores[row.index, cell.sample]}
            for row in split.rows
            for cell in row.cells
            if row.prompt and (row.index, cell.sample) in scores
        ]
    found.sort(key=lambda cell: -cell["score"])
    count = min(_BEST, len(found) // 2)
    return {"best": found[:count], "worst": found[len(found) - count :][::-1]}


def _timeline(run: Records) -> dict[str, Any] | None:
    """Who worked when in the last iterations: the driver first, then everybody else by name."""
    found = run.timeline(_ITERATIONS)
    if not found:
        return None
    begin = min(span.started for _, span in found)
    end = max(span.started + span.seconds for _, span in found)
    workers = sorted({span.who for _, span in found}, key=lambda who: (who != DRIVER, who))
    rows = [
        (
            who,
            [
                (span.started - begin, span.seconds, f"{span.what} (iteration {iteration})", _WORK.get(span.what, 5))
                for iteration, span in found
                if span.who == who
            ],
        )
        for who in workers[:_WORKERS]
    ]
    iterations = sorted({iteration for iteration, _ in found})
    return {
        "chart": spans(rows, end - begin),
        "first": iterations[0],
        "last": iterations[-1],
        "seconds": end - begin,
        "left_out": len(workers[_WORKERS:]),
        "kinds": sorted({span.what for _, span in found}, key=lambda what: (_WORK.get(what, 5), what)),
    }


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="backslashreplace")
