"""What a run was, is and has found, as plain data: what pages say in words and `--json` prints."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cluster import settings
from cluster.pages.groups import flat, read_config
from cluster.pages.panels import Series
from cluster.records.grids import SPLITS
from cluster.records.lock import is_held
from cluster.records.masking import masked
from cluster.records.reading import CONFIG, Records
from cluster.text import counted


def summary(run: Records, series: Series | None = None) -> dict[str, Any]:
    """A run in figures, as JSON has it: numbers that are not finite are null.

    Args:
        run: Which.
        series: Its metrics, where they have been read.
    """
    series = run.metrics() if series is None else series
    config = read_config(run.path)
    done = max((iteration for values in series.values() for iteration, _ in values), default=0)
    asked = config.get("iterations")
    return {
        "name": run.path.name,
        "path": str(run.path),
        "state": state(run.path, done, asked),
        "iterations": done,
        "iterations_asked": asked,
        "objective": _within(config, "objective", "name"),
        "seed": config.get("seed"),
        "rewards": weights(config),
        "images": int(sum(value for _, value in series.get("samples", []) if math.isfinite(value))),
        "seconds": sum(value for _, value in series.get("time/iteration", []) if math.isfinite(value)),
        "evaluation": evaluation(series),
        "warnings": [*lost(series, done), *run.warnings()],
        "changed_settings": changed(masked(config)),
        "starts": run.starts(),
        "repeat": repeat(run),
    }


def lost(series: Series, done: int) -> list[dict[str, Any]]:
    """A warning of the iterations that are not on record, if there are any; parts of evaluations alone do not count."""
    seen = {iteration for name, values in series.items() if not name.startswith("eval/") for iteration, _ in values}
    missing = [iteration for iteration in range(1, done + 1) if iteration not in seen] if seen else []
    if not missing:
        return []
    which = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    sentence = (
        f"Nothing is on record of {counted(len(missing), 'iteration')} of {done} ({which}), whose parts of "
        "metrics.parquet are missing or torn; totals leave them out."
    )
    return [{"iteration": missing[0], "rule": "records", "sentence": sentence}]


def state(folder: Path, done: int, asked: Any) -> str:
    """Whether a run is finished, under way or stopped."""
    if is_held(folder):
        return "under way"
    return "finished" if done == asked else "stopped"


def weights(config: Mapping[str, Any]) -> dict[str, float]:
    """The weight of each reward; 0 is one that is watched."""
    rewards = config.get("rewards")
    found = {}
    for name, reward in rewards.items() if isinstance(rewards, Mapping) else ():
        weight = reward.get("weight") if isinstance(reward, Mapping) else None
        found[str(name)] = float(weight) if isinstance(weight, int | float) else 0.0
    return found


def trained(config: Mapping[str, Any]) -> dict[str, float]:
    """The rewards that have a weight."""
    return {name: weight for name, weight in weights(config).items() if weight}


def evaluation(series: Series) -> list[dict[str, Any]]:
    """First and last value of every figure of the evaluations, split by split."""
    rows = []
    for name, values in series.items():
        kind, _, rest = name.partition("/")
        split, _, figure = rest.partition("/")
        if kind == "eval" and figure and values:
            (first, before), (last, after) = values[0], values[-1]
            rows.append(
                {
                    "split": split,
                    "figure": figure,
                    "first_iteration": first,
                    "before": _plain(before),
                    "last_iteration": last,
                    "after": _plain(after),
                    "change": _plain(after - before),
                }
            )
    order = {split: place for place, split in enumerate(SPLITS)}
    return sorted(rows, key=lambda row: order.get(row["split"], len(order)))


def changed(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The settings of a run that differ from the defaults, as `cluster.list settings` says them, in their order."""
    defaults = _defaults(_within(config, "objective", "name"))
    found = []
    for key, value in flat(config).items():
        head, _, rest = key.partition(".")
        known = f"rewards.{settings.ANY}.{rest.rpartition('.')[2]}" if head == "rewards" else key
        default = defaults.get(known, settings.REQUIRED)
        if key in ("name", "folder", "objective.name") or _same(value, default):
            continue
        found.append({"key": key, "value": value, "default": None if default is settings.REQUIRED else default})
        if default is settings.REQUIRED:
            del found[-1]["default"]
    return found


def repeat(run: Records) -> str:
    """The command that carries out a run once more."""
    command = (starts := run.starts()) and starts[-1].get("command")
    module = "cluster.train" if isinstance(command, list) and "cluster.train" in command else "cluster.local"
    return shlex.join(["python", "-m", module, str(run.path / CONFIG), f"name={run.path.name}-again"])


def curves(series: Series) -> dict[str, dict[str, Sequence[Any]]]:
    """Every metric, as JSON has it."""
    return {
        name: {"iterations": [i for i, _ in values], "values": [_plain(value) for _, value in values]}
        for name, values in series.items()
    }


@cache
def _defaults(objective: Any) -> dict[str, Any]:
    found = {setting.key: setting.default for setting in settings.settings()}
    if isinstance(objective, str) and (own := settings.objective(objective)) is not None:
        found = {key: value for key, value in found.items() if not key.startswith("objective.")}
        found |= {setting.key: setting.default for setting in own.settings}
    return found


def _same(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        default = list(default)
    return value == default and isinstance(value, bool) == isinstance(default, bool)


def _within(config: Mapping[str, Any], *keys: str) -> Any:
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
