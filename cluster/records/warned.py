"""`warnings.jsonl`: what a run warned of, a line each.

A line is `{"iteration": int, "rule": str, "sentence": str, "figure": str or null}`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.records.files import replacing
from cluster.records.origin import json_lines

FILE = "warnings.jsonl"
PEOPLE = "people"  # the rule of what is said of answers, which have no figure


@dataclass(frozen=True)
class Warned:
    """A rule that is broken, or what else a run is told once."""

    iteration: int
    rule: str
    sentence: str
    figure: str | None = None  # of the evaluation, where the rule is of several of them


def read(folder: Path) -> list[Warned]:
    """The warnings of a run, in order; none where there is no file, and without lines that are none."""
    try:
        text = (folder / FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    found = []
    for line in json_lines(text):
        iteration, rule, sentence, figure = (line.get(name) for name in ("iteration", "rule", "sentence", "figure"))
        if isinstance(iteration, int) and isinstance(rule, str) and isinstance(sentence, str):
            found.append(Warned(iteration, rule, sentence, figure if isinstance(figure, str) else None))
    return found


def add(folder: Path, warning: Warned) -> bool:
    """Keep a warning, unless that iteration has one of that rule and figure; returns whether it is new.

    Raises:
        WriteError: As `write`.
    """
    known = read(folder)
    if new := not any(_is_of(one, warning) for one in known):
        write(folder, [*known, warning])
    return new


def write(folder: Path, warnings: Sequence[Warned]) -> None:
    """Replace the warnings of a run by these, whole.

    Raises:
        WriteError: If the folder cannot be written to.
    """
    with replacing(folder / FILE) as file:
        file.writelines(json.dumps(asdict(warned)).encode() + b"\n" for warned in warnings)


def _is_of(known: Warned, warning: Warned) -> bool:
    """Whether a warning on record is of the same: lines of the guard that are older than figures are of any."""
    figures = (warning.figure,) if warning.rule == PEOPLE else (warning.figure, None)
    return (known.iteration, known.rule) == (warning.iteration, warning.rule) and known.figure in figures
