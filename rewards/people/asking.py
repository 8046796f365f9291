"""Questions made of pictures: pairs of one prompt, or the sets that several models drew for it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from rewards.people.questions import Question, keep_picture


class Picture(NamedTuple):
    """A picture that people may be asked about."""

    prompt: str
    read: Callable[[], bytes]  # its file
    model: str | None = None  # what made it, where models are to be compared
    score: float | None = None  # of the current reward


def pairs(pictures: Sequence[Picture], seed: int, unsure: bool = False) -> list[tuple[Picture, Picture]]:
    """Every two pictures of a prompt, in an order drawn by the seed; of several models, every two of different ones.

    Args:
        pictures: Of any prompts.
        seed: Of the order.
        unsure: Those first whose scores are closest, and those without scores last.
    """
    several = len({picture.model for picture in pictures}) > 1
    found = [
        (one, other)
        for of_prompt in _by_prompt(pictures).values()
        for one, other in combinations(of_prompt, 2)
        if one.model != other.model or not several
    ]
    random.Random(seed).shuffle(found)
    return sorted(found, key=_gap) if unsure else found


def sets(pictures: Sequence[Picture], size: int) -> dict[str, dict[str, list[Picture]]]:
    """The first pictures that each model drew for a prompt, by prompt and model, where all models have so many.

    Args:
        pictures: Of any prompts, of several models.
        size: Pictures of a set.
    """
    models = list(dict.fromkeys(picture.model or "" for picture in pictures))
    found = {}
    for prompt, of_prompt in _by_prompt(pictures).items():
        by_model = {model: [p for p in of_prompt if (p.model or "") == model][:size] for model in models}
        if all(len(own) == size for own in by_model.values()):
            found[prompt] = by_model
    return found


def ask_pairs(folder: Path, chosen: Iterator[tuple[Picture, Picture]], count: int) -> tuple[list[Question], int]:
    """Questions of the first pairs whose pictures can be shown and are two different ones.

    Args:
        folder: Of the questions; the pictures are put there.
        chosen: The pairs, in order.
        count: How many questions to make.

    Returns:
        The questions, and how many pairs could not be shown.

    Raises:
        NotKept: If a picture cannot be written.
    """
    questions: dict[str, Question] = {}
    damaged = 0
    while len(questions) < count and (pair := next(chosen, None)) is not None:
        try:
            names = [_keep(folder, picture) for picture in pair]
        except ValueError:
            damaged += 1
            continue
        if names[0] == names[1]:
            continue
        models = tuple(picture.model for picture in pair if picture.model is not None)
        scores = tuple(picture.score for picture in pair if picture.score is not None)
        question = Question(
            pair[0].prompt,
            ((names[0],), (names[1],)),
            models if len(models) == 2 else None,
            scores if len(scores) == 2 else None,
        )
        questions[question.id] = question
    return list(questions.values()), damaged


def ask_sets(
    folder: Path, found: dict[str, dict[str, list[Picture]]], words: Sequence[str], count: int
) -> tuple[list[Question], int]:
    """The same words about the sets of each prompt, as many prompts as there are to be.

    Args:
        folder: Of the questions; the pictures are put there.
        found: See `sets`.
        words: What is asked, one question each.
        count: How many prompts to ask about.

    Returns:
        The questions, and how many prompts could not be shown.

    Raises:
        NotKept: If a picture cannot be written.
    """
    questions: list[Question] = []
    damaged = 0
    for prompt, by_model in found.items():
        if len(questions) == count * len(words):
            break
        try:
            names = tuple(tuple(_keep(folder, picture) for picture in own) for own in by_model.values())
        except ValueError:
            damaged += 1
            continue
        questions += [Question(prompt, names, tuple(by_model), words=asked) for asked in words]
    return questions, damaged


def _keep(folder: Path, picture: Picture) -> str:
    """Its name in the folder; raises as `keep_picture`, where its file cannot be read as well."""
    try:
        data = picture.read()
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror or error})") from error
    return keep_picture(folder, data)


def _by_prompt(pictures: Sequence[Picture]) -> dict[str, list[Picture]]:
    found: dict[str, list[Picture]] = {}
    for picture in pictures:
        found.setdefault(picture.prompt, []).append(picture)
    return found


def _gap(pair: tuple[Picture, Picture]) -> float:
    one, other = (picture.score for picture in pair)
    return float("inf") if one is None or other is None else abs(one - other)
