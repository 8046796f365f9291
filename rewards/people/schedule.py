"""Which question a rater sees next, and in which order its pictures stand: drawn by the seed, never by the hour.

Some questions come to everybody, so that raters can be compared, and the others to one rater each. A share of what a
rater has answered comes again, in an order drawn anew, so that they can be compared with themselves.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import floor
from typing import Literal

from rewards.people.choices import Choice, Choices
from rewards.people.questions import Question, Questions

_AHEAD = 2  # showings that a page holds: the one that is seen, and the next
_BETWEEN = 10  # answers, before a question comes again
_PATIENCE = 900.0  # seconds for which a question is kept for a rater who says nothing


@dataclass(frozen=True)
class Rules:
    """How questions are handed out.

    Args:
        seed: Of the orders of questions and pictures.
        pick: "random", or "unsure" for those first that the current reward tells apart the least.
        again: Share of a rater's questions that come a second time.
        shared: Share of the questions that every rater sees.
    """

    seed: int = 0
    pick: Literal["random", "unsure"] = "random"
    again: float = 0.1
    shared: float = 0.2


@dataclass(frozen=True)
class Showing:
    """A question as it is put before a rater.

    Args:
        question: What is asked.
        round: 0, or 1 where it comes again.
        order: Which of its sets stands in which place, from the left.
    """

    question: Question
    round: int
    order: tuple[int, ...]


class Schedule:
    """Hands questions out.

    What a rater holds stays theirs for a while, also in another window, and is forgotten with the process: then it is
    drawn anew from what has been answered.

    Args:
        questions: That may be asked.
        choices: That were made.
        rules: See there.
        clock: Seconds, from any beginning.
    """

    def __init__(
        self, questions: Questions, choices: Choices, rules: Rules, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._questions, self._choices, self._rules, self._clock = questions, choices, rules, clock
        self._held: dict[str, list[tuple[str, int]]] = {}  # by rater: question and round
        self._seen: dict[str, float] = {}  # when each rater was here
        self._ordered: list[Question] = []

    def next(self, rater: str) -> list[Showing]:
        """What a rater is to see now, and after that: at most two showings, and none if there is nothing left."""
        self._seen[rater] = self._clock()
        held = [key for key in self._held.get(rater, []) if self._stands(rater, *key)]
        made = self._choices.of(rater)
        for key in [*self._due(rater, made, _BETWEEN), *self._fresh(rater), *self._due(rater, made, 0)]:
            if len(held) >= _AHEAD:
                break
            if key not in held:
                held.append(key)
        self._held[rater] = held
        return [self._showing(rater, *key) for key in held[:_AHEAD]]

    def put_back(self, choice: Choice) -> None:
        """Show next what a rater has withdrawn."""
        self._held.setdefault(choice.rater, []).insert(0, (choice.question, choice.round))

    def left(self, rater: str) -> int:
        """How many showings there are still for a rater, as far as is known now."""
        made = self._choices.of(rater)
        first = sum(choice.round == 0 for choice in made)
        fresh = len(self._open(rater, set()))
        waiting = len(self._due(rater, made, 0))
        return fresh + waiting + self._again(rater, first + fresh) - self._again(rater, first)

    def _stands(self, rater: str, name: str, round: int) -> bool:
        """Whether what a rater holds is still to be answered."""
        return not self._choices.answered(rater, name, round) and (round > 0 or not self._questions.closed(name))

    def _due(self, rater: str, made: list[Choice], between: int) -> list[tuple[str, int]]:
        """What a rater has answered so many answers ago, and is to be asked again."""
        first = [(place, choice.question) for place, choice in enumerate(made) if choice.round == 0]
        return [
            (question, 1)
            for number, (place, question) in enumerate(first)
            if len(made) - place > between
            and self._again(rater, number + 1) > self._again(rater, number)
            and question in self._questions
            and not self._choices.answered(rater, question, 1)
        ]

    def _again(self, rater: str, number: int) -> int:
        """How many of the first so many that a rater answers come again: spread evenly, from a drawn place on."""
        return floor(number * self._rules.again + self._draw("again", rater))

    def _fresh(self, rater: str) -> list[tuple[str, int]]:
        now = self._clock()
        taken = {
            key[0]
            for other, held in self._held.items()
            if other != rater and now - self._seen.get(other, now) < _PATIENCE
            for key in held
        }
        return [(question.id, 0) for question in self._open(rater, taken)]

    def _open(self, rater: str, taken: set[str]) -> list[Question]:
        """What a rater has not answered, and nobody else unless everybody does, in order."""
        if len(self._ordered) != len(self._questions):
            self._ordered = sorted(self._questions, key=self._rank)
        taken = taken | {choice.question for choice in self._choices}
        return [
            question
            for question in self._ordered
            if self._stands(rater, question.id, 0)
            and (question.id not in taken or self._draw("shared", question.id) < self._rules.shared)
        ]

    def _rank(self, question: Question) -> tuple[float, float]:
        return question.gap if self._rules.pick == "unsure" else 0.0, self._draw("order", question.id)

    def _showing(self, rater: str, name: str, round: int) -> Showing:
        question = self._questions[name]
        places = range(len(question.sets))
        order = sorted(places, key=lambda place: self._draw("place", name, rater, round, place))
        return Showing(question, round, tuple(order))

    def _draw(self, *key: object) -> float:
        return _draw(self._rules.seed, *key)


@lru_cache(maxsize=2**16)
def _draw(*key: object) -> float:
    """A number from 0 to 1 that depends on the key alone."""
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:7]) / 2**56
