"""Questions made of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rewards.people.asking import Picture, ask_pairs, ask_sets, pairs, sets
from tests.support.taste import picture


def pictures(count: int, prompt: str = "a", model: str | None = None, start: int = 0) -> list[Picture]:
    def read(seed: int) -> bytes:
        return picture(np.random.default_rng(seed), 16)

    return [Picture(prompt, lambda seed=seed: read(seed), model) for seed in range(start, start + count)]


def test_pairs_are_of_one_prompt_in_an_order_of_the_seed() -> None:
    found = [*pictures(4), *pictures(3, "b", start=10)]
    chosen = pairs(found, 0)
    assert len(chosen) == 6 + 3
    assert all(one.prompt == other.prompt and one is not other for one, other in chosen)
    assert pairs(found, 0) == chosen != pairs(found, 1)


def test_of_several_models_pairs_are_between_them() -> None:
    chosen = pairs([*pictures(2, model="m"), *pictures(3, model="n", start=5)], 0)
    assert len(chosen) == 6
    assert all({one.model, other.model} == {"m", "n"} for one, other in chosen)


def test_the_least_sure_come_first() -> None:
    scores = (0.0, 1.0, 1.1, None)
    found = [one._replace(score=score) for one, score in zip(pictures(4), scores, strict=True)]
    gaps = [
        abs(one.score - other.score) if one.score is not None and other.score is not None else None
        for one, other in pairs(found, 0, unsure=True)
    ]
    assert gaps == [1.1 - 1.0, 1.0, 1.1, None, None, None]


def test_damaged_and_equal_pictures_are_passed_over(tmp_path: Path) -> None:
    good, other, third = pictures(3)
    bad, gone = Picture("a", lambda: b"no picture"), Picture("a", (tmp_path / "gone.png").read_bytes)
    chosen = iter([(good, bad), (gone, good), (good, good), (good, other), (other, third), (good, third)])
    questions, damaged = ask_pairs(tmp_path, chosen, 2)
    assert (len(questions), damaged) == (2, 2)
    assert questions[0].models is None
    assert all((tmp_path / "pictures" / name).exists() for asked in questions for (name,) in asked.sets)
    assert next(chosen)[1] is third  # no more is read than is wanted


def test_a_study_has_what_every_model_drew(tmp_path: Path) -> None:
    drawn = [
        *pictures(3, "a", "m"), *pictures(2, "a", "n", 10), *pictures(2, "b", "m", 20), *pictures(1, "b", "n", 30)
    ]  # fmt: skip
    found = sets(drawn, 2)
    assert {prompt: {model: len(own) for model, own in models.items()} for prompt, models in found.items()} == {
        "a": {"m": 2, "n": 2}
    }
    found["c"] = {model: [Picture("c", (tmp_path / "gone.png").read_bytes)] * 2 for model in "mn"}
    questions, damaged = ask_sets(tmp_path, found, ["best?", "most?"], 5)
    assert damaged == 1
    assert [(asked.words, asked.models, [len(names) for names in asked.sets]) for asked in questions] == [
        ("best?", ("m", "n"), [2, 2]),
        ("most?", ("m", "n"), [2, 2]),
    ]
