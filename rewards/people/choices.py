"""What people chose: on the disk before anything else is shown, and counted once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rewards.people.lines import Damaged, Journal, read_lines
from rewards.people.questions import Question

FILE = "choices.jsonl"
TIE, BOTH_BAD = "tie", "both_bad"


class AlreadyChosen(ValueError):
    """The rater has answered this already; the message is one sentence for them."""


@dataclass(frozen=True)
class Choice:
    """An answer of one person.

    Args:
        id: Of the choice, made where it was made: one that is sent twice counts once.
        question: The id of the question.
        prompt: What the pictures were of.
        sets: The names of the pictures of each set, as in the question.
        order: Which of the sets stood in which place, from the left: (1, 0) says that the second was the left one.
        choice: The place that was chosen, 0 the left one; or a tie, or all of them bad.
        rater: Who chose.
        round: 0 where the rater saw the question for the first time, 1 where it came again.
        time: Seconds since the epoch.
        seconds: How long the rater looked, where that is known.
    """

    id: str
    question: str
    prompt: str
    sets: tuple[tuple[str, ...], ...]
    order: tuple[int, ...]
    choice: int | str
    rater: str
    round: int
    time: float
    seconds: float | None = None

    @property
    def winner(self) -> int | None:
        """Which of the sets was chosen; `None` for a tie and for both bad."""
        return self.order[self.choice] if isinstance(self.choice, int) else None

    @property
    def showing(self) -> tuple[str, str, int]:
        """What can be answered once: who, what, and which time."""
        return self.rater, self.question, self.round


class Choices:
    """The choices of a folder in the hands of the one process that adds to them, one after the other.

    Args:
        folder: Where the file is.

    Raises:
        Damaged: If the file says something else than choices.
        InUse: If another process adds to them.
        NotKept: If it cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._journal, self._writing = Journal(folder / FILE), asyncio.Lock()
        self._standing: dict[str, Choice] = {}  # by id, in their order
        self._withdrawn: set[str] = set()
        self._by_showing: dict[tuple[str, str, int], str] = {}
        self._by_rater: dict[str, list[str]] = {}
        self.changes = 0  # how often something was added or withdrawn
        try:
            for record in self._journal.records:
                self._take(record)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Choice]:
        return iter(self._standing.values())

    def __len__(self) -> int:
        return len(self._standing)

    def of(self, rater: str) -> list[Choice]:
        """What stands of a rater, in order."""
        return [self._standing[name] for name in self._by_rater.get(rater, [])]

    def answered(self, rater: str, question: str, round: int) -> bool:
        """Whether a choice of it stands."""
        return (rater, question, round) in self._by_showing

    async def add(self, choice: Choice) -> bool:
        """Keep a choice; it is on the disk when this returns. Whether it is new: one that is sent twice counts once.

        Raises:
            AlreadyChosen: If the rater has answered this already, by another choice.
            NotKept: If it cannot be written; then it does not count.
        """
        async with self._writing:
            if choice.id in self._standing or choice.id in self._withdrawn:
                return False
            if choice.showing in self._by_showing:
                raise AlreadyChosen("You have answered this one already, in another window; that choice stands.")
            await self._keep(asdict(choice))
            return True

    async def withdraw(self, name: str, rater: str, time: float) -> Choice | None:
        """Take back a rater's last choice; the record stays, and one is added that says so.

        Args:
            name: The id of the choice.
            rater: Whose it is.
            time: Seconds since the epoch.

        Returns:
            The choice; `None` if it was withdrawn before.

        Raises:
            KeyError: If there is no such choice of this rater.
            AlreadyChosen: If it is not the last one.
            NotKept: If it cannot be written; then the choice stands.
        """
        async with self._writing:
            if name in self._withdrawn:
                return None
            choice = self._standing[name]
            if choice.rater != rater:
                raise KeyError(name)
            if self._by_rater[rater][-1] != name:
                raise AlreadyChosen("You have chosen again since then, in another window; that one can be undone.")
            await self._keep({"withdrawn": name, "rater": rater, "time": time})
            return choice

    def close(self) -> None:
        """Let another process add."""
        self._journal.close()

    async def _keep(self, record: Mapping[str, Any]) -> None:
        await asyncio.to_thread(self._journal.append, record)  # a disk may take its time
        self._take(record)

    def _take(self, record: Mapping[str, Any]) -> None:
        self.changes += 1
        if "withdrawn" in record:
            if (gone := self._standing.pop(str(record["withdrawn"]), None)) is not None:
                self._withdrawn.add(gone.id)
                del self._by_showing[gone.showing]
                self._by_rater[gone.rater].remove(gone.id)
            return
        choice = _choice(record, self._journal.path)
        self._standing[choice.id] = choice
        self._by_showing[choice.showing] = choice.id
        self._by_rater.setdefault(choice.rater, []).append(choice.id)


def read(folder: Path) -> list[Choice]:
    """The choices that stand in a folder, in their order, also while the page is open.

    Raises:
        Damaged: If the file says something else than choices.
    """
    path = folder / FILE
    standing: dict[str, Choice] = {}
    for record in read_lines(path)[0]:
        if "withdrawn" in record:
            standing.pop(str(record["withdrawn"]), None)
        else:
            choice = _choice(record, path)
            standing[choice.id] = choice
    return list(standing.values())


def orders(question: Question, places: Iterable[Iterable[str]]) -> tuple[int, ...]:
    """Which of a question's sets stood in which place.

    Args:
        question: That was shown.
        places: The names of the pictures in each place, as they were shown.

    Raises:
        ValueError: If something else was shown.
    """
    left = dict(enumerate(question.sets))
    order = []
    for shown in map(tuple, places):
        found = next((index for index, names in left.items() if names == shown), None)
        if found is None:
            raise ValueError("These are not the pictures of the question.")
        order.append(found)
        del left[found]
    if left:
        raise ValueError("Not all pictures of the question were shown.")
    return tuple(order)


def _choice(record: Mapping[str, Any], path: Path) -> Choice:
    try:
        choice = Choice(
            **{
                **record,
                "sets": tuple(map(tuple, record["sets"])),
                "order": tuple(map(int, record["order"])),
            }
        )
        if sorted(choice.order) != list(range(len(choice.sets))) or choice.choice not in (
            TIE,
            BOTH_BAD,
            *range(len(choice.sets)),
        ):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise Damaged(f"{path} has a line that is no choice: {str(dict(record))[:200]}") from None
    return choice
