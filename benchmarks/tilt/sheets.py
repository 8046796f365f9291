"""Pictures of every method at the same reward and at its end, and of the exact tilt, as cells of a sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.methods.grid import Cell
from benchmarks.tilt.compare import Exact
from benchmarks.tilt.draws import Drawn
from benchmarks.tilt.paths import drawn_by, models_of
from benchmarks.tilt.tilt import beta_at, tilted
from cluster.records import given

_PROMPTS, _SAMPLES = 4, 2
# Pictures (samples, prompts, H, W, 3) uint8, if there are any, and what they come to, or why there are none, in words.
Shown = tuple[np.ndarray | None, str]


def of_tilt(tilt: Exact, base: Drawn, rewards: Sequence[float]) -> list[Shown]:
    """Pictures of the pretrained model and of the tilts with some rewards, drawn by their weights.

    Args:
        tilt: Of which reward.
        base: The pictures that it rests on.
        rewards: Expected ones.
    """
    found: list[Shown] = []
    for beta in [0.0, *(beta_at(tilt.base.reward, base.groups, reward) for reward in rewards)]:
        if np.isnan(beta) or (at := tilt.at(beta)).least < _SAMPLES:
            found.append((None, "no tilt has it" if np.isnan(beta) else "too few pictures"))
            continue
        weights, random = tilted(tilt.base.reward, base.groups, beta), np.random.default_rng(0)
        picked = [random.choice(rows, _SAMPLES, replace=False, p=weights[rows]) for rows in _members(base)]
        found.append((_cell(base, picked), _words(at.reward, at.gold)))
    return found


def of_run(
    cell: Cell, path: Mapping[str, Sequence[float]], rewards: Sequence[float], each: int, folder: Path
) -> list[Shown]:
    """Pictures of a run: the pretrained model's, its first checkpoint's with at least each of some rewards, its last's.

    Args:
        cell: The run.
        path: Its figures by name, a value a checkpoint.
        rewards: In the run's reward.
        each: Pictures of each prompt that were drawn.
        folder: Where draws are kept.
    """
    config = given.read(cell.run)
    models, reward, gold = models_of(cell.run, config), path["reward"], path["gold"]
    reached = [next((number for number, had in enumerate(reward) if had >= wanted), None) for wanted in rewards]
    found: list[Shown] = []
    for number in [0, *reached, len(reward) - 1]:
        if number is None or path["iteration"][number] not in models:
            found.append((None, "never" if number is None else "its checkpoint is gone"))
            continue
        drawn = drawn_by(models[int(path["iteration"][number])], config, each, folder)
        pictures = _cell(drawn, [rows[:_SAMPLES] for rows in _members(drawn)])
        found.append((pictures, _words(reward[number], gold[number])))
    return found


def _words(reward: float, gold: float) -> str:
    return f"reward {reward:.2f}, gold {gold:.2f}"


def _members(drawn: Drawn) -> list[np.ndarray]:
    """Of evenly chosen prompts, the rows of their pictures."""
    groups = np.unique(drawn.groups)
    count = min(_PROMPTS, len(groups))
    chosen = groups[np.arange(count) * len(groups) // count]
    return [np.nonzero(drawn.groups == group)[0] for group in chosen]


def _cell(drawn: Drawn, rows: Sequence[np.ndarray]) -> np.ndarray:
    return drawn.pixels[np.stack(rows, axis=1)]
