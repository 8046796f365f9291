"""Choices as a Pick-a-Pic dataset, for every trainer that reads one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rewards.people.choices import BOTH_BAD, Choice
from rewards.people.lines import Damaged, NotKept
from rewards.people.pick_a_pic import TIE, Pair, write
from rewards.people.questions import PICTURES

FILE = "train-00000-of-00001.parquet"


def export(folder: Path, choices: Iterable[Choice], out: Path) -> int:
    """Write a row for each choice between two pictures, by whomever and however often; returns how many there are.

    A tie is half a label. Both bad is no label, and says so in a column of its own. Choices between sets are no rows.

    Args:
        folder: Of the questions.
        choices: See `rewards.people.choices.read`.
        out: The folder of the dataset, where there is none yet: what is there may be what somebody trains on.

    Raises:
        Damaged: If a picture is gone.
        NotKept: If there is a dataset already, or a file.
        OSError: If the dataset cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise NotKept(f"{out} is a file; name a folder for the dataset.")
    if (there := next(out.rglob("*.parquet"), None)) is not None:
        raise NotKept(f"{out} holds a dataset already ({there.relative_to(out)}); name a folder without one.")
    return write(out / FILE, _pairs(folder / PICTURES, choices))


def _pairs(pictures: Path, choices: Iterable[Choice]) -> Iterator[Pair]:
    for choice in choices:
        if [len(names) for names in choice.sets] != [1, 1]:
            continue
        one, other = (names[0] for names in choice.sets)
        try:
            files = (pictures / one).read_bytes(), (pictures / other).read_bytes()
        except OSError as error:
            raise Damaged(f"The picture {error.filename} of a choice cannot be read ({error.strerror}).") from error
        bad = choice.choice == BOTH_BAD
        label = None if bad else TIE if choice.winner is None else float(choice.winner == 0)
        yield Pair(choice.prompt, files, label, bad, (Path(one).stem, Path(other).stem))
