"""Choices as a Pick-a-Pic dataset, for every trainer that reads one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rewards.people.choices import BOTH_BAD, Choice
from rewards.people.lines import Damaged, NotKept
from rewards.people.pick_a_pic import TIE, Pair, write
from rewards.people.questions import PICTURES, Questions

FILE = "train-00000-of-00001.parquet"


def export(folder: Path, choices: Iterable[Choice], out: Path) -> tuple[int, int]:
    """Write a row for each rater's choice between two pictures; what comes again (round 1) is no second vote.

    A tie is half a label. Both bad is no label, and says so in a column of its own. Choices between sets are no rows;
    nor are answers to questions in words of their own, which need not be about the better picture.

    Args:
        folder: Of the questions.
        choices: See `rewards.people.choices.read`.
        out: The folder of the dataset, where there is none yet: what is there may be what somebody trains on.

    Returns:
        How many rows there are, and how many choices are none because a picture cannot be read.

    Raises:
        Damaged: If of every choice a picture cannot be read.
        NotKept: If there is a dataset already, or a file, or nothing to write.
        OSError: If the dataset cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise NotKept(f"{out} is a file; name a folder for the dataset.")
    if (there := next(out.rglob("*.parquet"), None)) is not None:
        raise NotKept(f"{out} holds a dataset already ({there.relative_to(out)}); name a folder without one.")
    own = {question.id for question in Questions(folder) if question.words}
    votes = [
        choice
        for choice in choices
        if not choice.round and [len(names) for names in choice.sets] == [1, 1] and choice.question not in own
    ]
    if not votes:
        raise NotKept("No choice says which of two pictures is better; those of a study (--ask) are not exported.")
    count = write(out / FILE, _pairs(folder / PICTURES, votes))
    return count, len(votes) - count


def _pairs(pictures: Path, votes: Sequence[Choice]) -> Iterator[Pair]:
    found = 0
    gone: OSError | None = None
    for choice in votes:
        one, other = (names[0] for names in choice.sets)
        try:
            files = (pictures / one).read_bytes(), (pictures / other).read_bytes()
        except OSError as error:
            gone = error
            continue
        found += 1
        bad = choice.choice == BOTH_BAD
        label = None if bad else TIE if choice.winner is None else float(choice.winner == 0)
        yield Pair(choice.prompt, files, label, bad, (Path(one).stem, Path(other).stem))
    if gone is not None and not found:
        raise Damaged(f"The picture {gone.filename} of a choice cannot be read ({gone.strerror}).") from gone
