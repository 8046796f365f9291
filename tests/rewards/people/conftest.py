"""Folders with questions, and choices of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rewards.people.choices import Choice
from rewards.people.questions import Question, keep_picture, offer
from tests.support.taste import picture


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[Question]]:
    """Puts pairs into `tmp_path` and returns them; keyword arguments are those of each question."""

    def ask(count: int, prompt: str = "a disc", start: int = 0, **rest: object) -> list[Question]:
        made = []
        for number in range(start, start + count):
            rng = np.random.default_rng(number)
            one, other = (keep_picture(tmp_path, picture(rng, 16)) for _ in range(2))
            made.append(Question(f"{prompt} {number}", ((one,), (other,)), **rest))  # type: ignore[arg-type]
        offer(tmp_path, made)
        return made

    return ask


@pytest.fixture
def choose() -> Callable[..., Choice]:
    """Makes a choice of a question."""

    def choose(
        question: Question, choice: int | str = 0, rater: str = "Ada", round: int = 0, order: tuple[int, ...] = ()
    ) -> Choice:
        name = f"{rater}{question.id}{round}"
        order = order or tuple(range(len(question.sets)))
        return Choice(name, question.id, question.prompt, question.sets, order, choice, rater, round, 1.0)

    return choose
