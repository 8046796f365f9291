"""Runs beside one another: curves over samples, reward queries and hours, a Pareto front, a table, pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from cluster.measures.front import front as pareto
from cluster.pages import sheets
from cluster.pages.charts import COLOURS, Line, curves
from cluster.pages.groups import Mean, but_the_seed, mean_curve, mean_of, other_secrets, read_config
from cluster.pages.panels import OUTCOME, Panel, Series, over_decades, panels
from cluster.pages.render import render
from cluster.pages.summary import lost, trained
from cluster.records.files import replacing
from cluster.records.grids import EVERYWHERE
from cluster.records.reading import Records
from cluster.text import shown

# What can be on the horizontal axis: its name, and what it is called.
AXES = {"samples": "images drawn", "queries": "reward queries", "hours": "hours of iterations"}
COMBINED = "reward/mean"  # the one metric of rewards whose unit is the run's own
_STANDARDISE = "combination.standardise"
_LOWER = ("distance", "kl")  # figures of which less is better
_ROWS = 6  # prompts whose pictures are shown
_NAMED = 2  # settings in the name of a group
_LONGEST = 60  # characters of a value in it


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    name: str
    runs: list[Records]
    seeds: list[int | None]
    series: list[Series]
    objective: str | None
    weights: dict[str, float]  # of the rewards that are trained on
    notes: Sequence[str] = ()  # of what is not as it seems: runs that do not count
    combination: Mapping[str, Any] = field(default_factory=dict)  # what the unit of the combined reward depends on
    secrets: Sequence[str] = ()  # whole keys of what is masked as a secret and differs between the runs


@dataclass(frozen=True)
class Front:
    """A reward against another figure of the evaluations."""

    figure: str
    lower: bool  # whether less of it is better
    paths: list[list[tuple[int, float, float]]]  # of each group: iteration, reward, figure; means over its seeds
    best: set[tuple[int, int]]  # group and iteration of those that no other beats in both


def read_groups(paths: Sequence[Path]) -> list[Group]:
    """The runs in groups, in the order in which they are named; a group is called by what it has for itself.

    Of runs with equal seeds the first counts: what repeats it says nothing of other seeds.
    """
    found: list[tuple[dict[str, Any], list[Path]]] = []
    for path in paths:
        common = but_the_seed(read_config(path))
        same = next((runs for other, runs in found if common and other == common), None)
        if same is None:
            found.append((common, [path]))
        else:
            same.append(path)
    groups = []
    for name, (common, runs) in zip(_names(found), found, strict=True):
        every = [read_config(path) for path in runs]
        seeds = [config.get("seed") for config in every]
        first = [runs[seeds.index(seed)] for seed in seeds]
        kept = [path for path, counts in zip(runs, first, strict=True) if path == counts]
        records = [Records(path) for path in kept]
        configs = [read_config(path) for path in kept]
        groups.append(
            Group(
                name,
                records,
                [config.get("seed") for config in configs],
                [record.metrics() for record in records],
                common.get("objective.name"),
                trained(configs[0]),
                [
                    f"{path.name} does not count: it has the seed and the configuration of {counts.name}."
                    for path, counts in zip(runs, first, strict=True)
                    if path != counts
                ],
                _combination(common, configs[0]),
                other_secrets(every),
            )
        )
    return groups


def along(series: Series, axis: str) -> dict[int, float]:
    """Where each iteration of a run is on an axis; iteration 0 is at 0."""
    if axis == "hours":
        values, factor = series.get("time/iteration", []), 1 / 3600
    elif axis == "queries":
        return {0: 0.0, **dict(series.get("reward_queries", []))}
    elif "images_drawn" in series:
        return {0: 0.0, **dict(series["images_drawn"])}
    else:  # of an older run
        values, factor = series.get("samples", []), 1.0
    total, found = 0.0, {0: 0.0}
    for iteration, value in values:
        total += value * factor
        found[iteration] = total
    return found


def curve(group: Group, name: str, axis: str) -> list[tuple[float, Mean]]:
    """The mean of a metric over the seeds of a group, by iteration, and where on an axis it is on average."""
    values = mean_curve([of.get(name, []) for of in group.series])
    places = mean_curve([sorted(along(of, axis).items()) for of in group.series])
    where = {iteration: mean.mean for iteration, mean in places}
    return [(where[iteration], mean) for iteration, mean in values if iteration in where]


def final(group: Group, figure: str) -> tuple[Mean | None, Mean | None]:
    """The mean over seeds of a figure at the first and at the last evaluation that all have, if there is one."""
    found = mean_curve([of.get(figure, []) for of in group.series])
    return (found[0][1], found[-1][1]) if found else (None, None)


def front(groups: Sequence[Group], split: str, reward: str, figure: str) -> Front:
    """A reward against a figure over the evaluations of all groups."""
    lower, sign = figure in _LOWER, -1 if figure in _LOWER else 1
    paths = []
    for group in groups:
        rewards, figures = (
            dict(mean_curve([of.get(f"eval/{split}/{name}", []) for of in group.series])) for name in (reward, figure)
        )
        shared = sorted(rewards.keys() & figures.keys())
        paths.append([(int(number), rewards[number].mean, figures[number].mean) for number in shared])
    points = [(group, number, x, sign * y) for group, path in enumerate(paths) for number, x, y in path]
    unbeaten = pareto(np.array([(x, y) for _, _, x, y in points]).reshape(-1, 2))
    best = {(group, number) for (group, number, _, _), kept in zip(points, unbeaten, strict=True) if kept}
    return Front(figure, lower, paths, best)


def figures(groups: Sequence[Group]) -> list[str]:
    """The names of all figures of the evaluations, in their order."""
    return list(
        dict.fromkeys(name for group in groups for of in group.series for name in of if name.startswith("eval/"))
    )


def chosen_reward(groups: Sequence[Group], reward: str | None) -> str | None:
    """The reward of the Pareto front: the one that is asked for, or the first that is trained on and evaluated."""
    there = {name.rpartition("/")[2] for name in figures(groups)}
    names = [reward] if reward else [name for group in groups for name in group.weights]
    return next((name for name in names if name in there), None)


def fronts(groups: Sequence[Group], reward: str | None) -> list[Front]:
    """The reward against every other figure of the training prompts' evaluations, where something is on record."""
    if reward is None:
        return []
    others = [name.partition("/")[2].partition("/") for name in figures(groups)]
    names = dict.fromkeys(name for split, _, name in others if split == "train" and name != reward)
    found = [front(groups, "train", reward, name) for name in names]
    return [one for one in found if any(one.paths)]


def notes(groups: Sequence[Group]) -> list[str]:
    """What a reader of the comparison is to know first, a sentence each."""
    found = [note for group in groups for note in group.notes]
    for group in groups:
        for run, series in zip(group.runs, group.series, strict=True):
            done = max((iteration for values in series.values() for iteration, _ in values), default=0)
            found += [f"{run.path.name}: {warning['sentence']}" for warning in lost(series, done)]
        if group.secrets:
            found.append(
                f"{group.name}: the values of {', '.join(group.secrets)} are masked as secrets and differ between its "
                "runs; where one is no secret, these runs differ in more than their seed."
            )
    if len({frozenset(map(str, group.seeds)) for group in groups}) > 1:
        said = "; ".join(f"{group.name}: {', '.join(map(str, group.seeds))}" for group in groups)
        found.append(f"The seeds differ ({said}), and with them the noise of evaluations and pictures.")
    if not share_a_scale(groups) and any(COMBINED in of for group in groups for of in group.series):
        said = "; ".join(f"{group.name}: {_combined_by(group)}" for group in groups)
        found.append(
            f"The combined reward ({COMBINED}) is not drawn, because the groups weight or standardise their rewards "
            f"differently ({said}); scores by name are raw, and can be compared."
        )
    return list(map(shown, found))


def share_a_scale(groups: Sequence[Group]) -> bool:
    """Whether the combined reward of all groups has one unit: the same rewards, weights and way to standardise them."""
    return all(group.combination == groups[0].combination for group in groups)


def as_data(groups: Sequence[Group], reward: str | None) -> dict[str, Any]:
    """What the page shows, as JSON has it."""

    def plain(mean: Mean | None) -> dict[str, Any] | None:
        if mean is None:
            return None
        return {"mean": mean.mean, "error": mean.error if math.isfinite(mean.error) else None, "runs": mean.runs}

    names = sorted({name for group in groups for of in group.series for name in of})
    return {
        "notes": notes(groups),
        "reward": reward,
        "groups": [
            {
                "name": group.name,
                "objective": group.objective,
                "runs": [str(run.path) for run in group.runs],
                "seeds": group.seeds,
                "evaluation": {
                    name.removeprefix("eval/"): dict(
                        zip(("before", "after"), map(plain, final(group, name)), strict=True)
                    )
                    for name in figures([group])
                },
                "spent": {axis: plain(mean_of(max(along(of, axis).values()) for of in group.series)) for axis in AXES},
                "curves": {
                    name: {
                        axis: [{"x": x, **(plain(mean) or {})} for x, mean in curve(group, name, axis)] for axis in AXES
                    }
                    for name in names
                    if name.startswith(("eval/", "score/", "reward/"))
                },
            }
            for group in groups
        ],
        "fronts": [
            {
                "figure": one.figure,
                "better": "lower" if one.lower else "higher",
                "points": [
                    {
                        "group": groups[place].name,
                        "iteration": number,
                        reward or "reward": x,
                        one.figure: y,
                        "on_front": (place, number) in one.best,
                    }
                    for place, path in enumerate(one.paths)
                    for number, x, y in path
                ],
            }
            for one in fronts(groups, reward)
        ],
    }


def write_comparison(groups: Sequence[Group], reward: str | None, path: Path) -> None:
    """Write the page.

    Raises:
        WriteError: If it cannot be written.
    """
    pictures = _pictures(groups)
    page = render(
        "compare.html",
        title=f"{len(groups)} groups of runs" if len(groups) > 1 else groups[0].name,
        groups=groups,
        notes=notes(groups),
        axes=AXES,
        charts={axis: _charts(groups, axis) for axis in AXES},
        reward=reward,
        fronts=[(one, _front_chart(groups, one, reward or "")) for one in fronts(groups, reward)],
        rows=[(name.removeprefix("eval/"), [final(group, name) for group in groups]) for name in figures(groups)],
        spent={
            axis: [mean_of(max(along(of, axis).values()) for of in group.series) for group in groups] for axis in AXES
        },
        pictures=pictures,
        sprites={f"{place}": [sheet.source for sheet in split.sheets] for place, split in pictures["splits"].items()},
        colours=COLOURS,
    )
    with replacing(path) as file:
        file.write(page)


def _charts(groups: Sequence[Group], axis: str) -> list[tuple[Panel, Markup, list[tuple[str, int]]]]:
    """A panel for each metric of the outcome, a curve for each group."""
    together: dict[str, list[tuple[int, float]]] = {}
    for group in groups:
        for of in group.series:
            for name, values in of.items():
                together.setdefault(name, []).extend(values)
    made: list[tuple[Panel, Markup, list[tuple[str, int]]]] = []
    for panel in panels(together):
        for name in panel.names if panel.part == OUTCOME else ():
            if name == COMBINED and not share_a_scale(groups):
                continue
            found = [(place, group, curve(group, name, axis)) for place, group in enumerate(groups)]
            lines = [
                Line(
                    group.name,
                    [(x, mean.mean) for x, mean in points],
                    [(x, m.mean - m.error, m.mean + m.error) for x, m in points if math.isfinite(m.error)],
                    place % COLOURS,
                )
                for place, group, points in found
                if points
            ]
            if lines:
                title = _title(name)
                chart = curves(lines, title, AXES[axis], panel.unit, log=over_decades([name]))
                made.append((Panel(panel.part, title, panel.unit, [name]), chart, []))
    return made


def _combination(common: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """What the unit of a group's combined reward depends on.

    Args:
        common: Its settings, by whole keys.
        config: The same, as one of its runs saved them.
    """
    found = {key: value for key, value in common.items() if key.startswith("combination.") or key == "data.labels"}
    if found.get(_STANDARDISE) is None:  # left to the objective
        found["objective.name"] = common.get("objective.name")
    return found | {"weights": trained(config)}


def _combined_by(group: Group) -> str:
    """How a group's rewards are combined, in words."""
    by = group.combination.get(_STANDARDISE)
    how = f"{_STANDARDISE}={by}" if by else f"standardised as {group.objective} does"
    return ", ".join([*(f"{weight:g} {name}" for name, weight in group.weights.items()), how])


def _title(name: str) -> str:
    kind, _, rest = name.partition("/")
    split, _, figure = rest.partition("/")
    if kind == "eval":
        return f"{figure} ({split.replace('_', ' ')})"
    return f"{rest} (training)" if kind == "score" else f"{name} (training)"


def _front_chart(groups: Sequence[Group], found: Front, reward: str) -> Markup:
    lines = [
        Line(
            group.name,
            [(x, y) for _, x, y in path],
            colour=place % COLOURS,
            labels=[f"iteration {number}" for number, _, _ in path],
            marked=[(place, number) in found.best for number, _, _ in path],
        )
        for place, (group, path) in enumerate(zip(groups, found.paths, strict=True))
    ]
    unit = f"{found.figure} ({'lower' if found.lower else 'higher'} is better)"
    return curves(lines, f"{reward} against {found.figure}", reward, unit, dots=True, log=over_decades([found.figure]))


def _pictures(groups: Sequence[Group]) -> dict[str, Any]:
    """The last pictures of one run of each group, at the same seed and prompts, and what the first began with."""
    shared = set.intersection(*({seed for seed in group.seeds} for group in groups))
    seed = min((seed for seed in shared if isinstance(seed, int)), default=None)
    splits: dict[int, sheets.Split] = {}
    for place, group in enumerate(groups):
        if seed is not None:
            run = group.runs[group.seeds.index(seed)]
            found = [of for of in sheets.read_splits(run, group.weights, times=2) if of.name != EVERYWHERE]
            found = [of for of in found if of.rows[0].prompt]
            if found:
                splits[place] = found[0]
    first = next(iter(splits.values()), None)
    prompts = [row.prompt for row in first.rows[:_ROWS]] if first else []
    rows = [
        (prompt, {place: next((r for r in of.rows if r.prompt == prompt), None) for place, of in splits.items()})
        for prompt in prompts
    ]
    return {"seed": seed, "splits": splits, "rows": rows}


def _names(found: Sequence[tuple[Mapping[str, Any], list[Path]]]) -> list[str]:
    """What each group is called: its objective, and settings in which those of that objective differ."""
    names = []
    for common, runs in found:
        own = str(common.get("objective.name") or runs[0].name)
        alike = [other for other, _ in found if other.get("objective.name") == common.get("objective.name")]
        keys = [key for key in common if any(other.get(key) != common[key] for other in alike)]
        said = [f"{key.rpartition('.')[2]} {str(common[key])[:_LONGEST]}" for key in keys[:_NAMED]]
        names.append(shown(", ".join([own, *said])))
    return [
        name if names.count(name) == 1 else f"{name} ({shown(runs[0].name)})"
        for name, (_, runs) in zip(names, found, strict=True)
    ]
