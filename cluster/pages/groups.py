"""Runs that differ in their seed alone, and the means of their curves with standard errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from cluster.records.masking import masked
from cluster.records.reading import CONFIG

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C reads a run's file in a millisecond
_OWN = ("name", "folder", "seed")  # what each run of a group has for itself


class Mean(NamedTuple):
    """What several runs say together."""

    mean: float
    error: float  # standard error of the mean; NaN of a single run
    runs: int


def read_config(run: Path) -> dict[str, Any]:
    """The settings of a run as it saved them, unchecked; empty where they cannot be read."""
    try:
        found = yaml.load((run / CONFIG).read_text(encoding="utf-8"), _LOADER)
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their whole keys, `learner.lr`; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        inner = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def but_the_seed(config: Mapping[str, Any]) -> dict[str, Any]:
    """What runs have in common that differ in their seed alone, by whole keys.

    Prompt files count by their names, and secrets by whether there are any: another token makes no other run. What has
    the name of a secret (`cluster.records.masking`) and is none makes no other run either, see `other_secrets`.
    """
    found = {key: value for key, value in flat(masked(config)).items() if key not in _OWN}
    for key in ("prompts.train", "prompts.held_out"):
        if isinstance(found.get(key), str):
            found[key] = found[key].rpartition("/")[2]
    return found


def other_secrets(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The whole keys of what is masked as a secret and differs between the settings of runs, in order."""
    plain, said = [flat(config) for config in configs], [flat(masked(config)) for config in configs]
    hidden = {key for own, shown in zip(plain, said, strict=True) for key in own if own[key] != shown[key]}
    return sorted(key for key in hidden if len({str(own.get(key)) for own in plain}) > 1)


def siblings(run: Path, most: int = 8) -> list[Path]:
    """The runs in the same folder that differ from a run in their seed alone, at most so many, in order."""
    own = read_config(run)
    if not own:
        return []
    common, seeds = but_the_seed(own), {own.get("seed")}
    found: list[Path] = []
    for path in sorted(run.parent.glob(f"*/{CONFIG}")):
        if path.parent.name == run.name or len(found) == most:
            continue
        other = read_config(path.parent)
        if other.get("seed") not in seeds and but_the_seed(other) == common:
            seeds.add(other.get("seed"))
            found.append(path.parent)
    return found


def mean_of(values: Iterable[float]) -> Mean | None:
    """The mean of what runs say, with its standard error; values that are not finite do not count."""
    found = mean_curve([[(0.0, value)] for value in values])
    return found[0][1] if found else None


def mean_curve(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, Mean]]:
    """The mean of curves where all of them have a point, `(x, mean)`."""
    columns = [dict(curve) for curve in curves if curve]
    if not columns:
        return []
    shared = sorted(set.intersection(*(set(column) for column in columns)))
    table = np.array([[column[x] for x in shared] for column in columns], float)  # (curves, points)
    finite = np.isfinite(table)
    table = np.where(finite, table, 0.0)
    counts = finite.sum(axis=0)
    means = table.sum(axis=0) / np.maximum(counts, 1)
    squares = np.where(finite, (table - means) ** 2, 0.0).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = np.where(counts > 1, np.sqrt(squares / (counts - 1) / counts), np.nan)
    rows = zip(shared, means.tolist(), errors.tolist(), counts.tolist(), strict=True)
    return [(x, Mean(mean, error, runs)) for x, mean, error, runs in rows if runs]
