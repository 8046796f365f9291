"""The grids of pictures that evaluations leave in a run's folder: which there are, and which sample each cell is of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROWS, COLUMNS = 12, 8  # at most: the first samples of the first prompts
EVERYWHERE = "train_everywhere"  # the split whose pictures are those of an exported adapter
SPLITS = ("train", "held_out", EVERYWHERE)  # in this order, then any other


class Shown(NamedTuple):
    """What a grid shows."""

    rows: Sequence[int]  # `prompt_index` of each row
    columns: int
    samples: Mapping[tuple[int, int], Mapping[str, Any]]  # the record of (prompt_index, sample_index)


def list_grids(run: Path) -> dict[str, dict[int, Path]]:
    """The grids of a run by split and iteration, both in order."""
    found: dict[str, dict[int, Path]] = {split: {} for split in SPLITS}
    for path in sorted((run / "images").glob("*-*.png")):
        if named := re.fullmatch(r"(.+)-([0-9]+)", path.stem):
            found.setdefault(named[1], {})[int(named[2])] = path
    return {split: dict(sorted(grids.items())) for split, grids in found.items() if grids}


def shown_in(samples: Iterable[Mapping[str, Any]], split: str) -> Shown | None:
    """What the grid of a split shows, by the samples of its evaluation; `None` if none are on record."""
    found = {
        (row["prompt_index"], row["sample_index"]): row
        for row in samples
        if row.get("split") == split and row["prompt_index"] < ROWS and row["sample_index"] < COLUMNS
    }
    if not found:
        return None
    return Shown(sorted({prompt for prompt, _ in found}), 1 + max(sample for _, sample in found), found)
