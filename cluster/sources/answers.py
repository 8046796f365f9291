"""What became of the pairs that people were to choose between, in numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields

from rewards.people.choices import BOTH_BAD
from rewards.people.live import TIE, Label


@dataclass(frozen=True)
class Answers:
    """What became of pairs that people were to choose between."""

    pairs: int = 0  # of the batch
    asked: int = 0  # that were put before people: two different pictures
    chosen: int = 0  # of which one picture was preferred
    ties: int = 0
    both_bad: int = 0
    discarded: int = 0  # that were answered, but of other pictures than those that are there now

    def __add__(self, other: Answers) -> Answers:
        return Answers(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    @classmethod
    def of(cls, labels: Sequence[Label | None], asked: int, discarded: int) -> Answers:
        """The answers of pairs, of which some have no label: those without an answer, and those that are discarded."""
        kinds = Counter("none" if x is None else "bad" if x == BOTH_BAD else "tie" if x == TIE else "" for x in labels)
        return cls(len(labels), asked, kinds[""], kinds["tie"], kinds["bad"], discarded)
