"""The foreign world: prompts that come back, pictures that the judge reads as they were meant, its own pipeline."""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from actors.config import PolicyConfig
from actors.policy import Policy
from benchmarks.foreign_world.judge import judge
from benchmarks.foreign_world.world import (
    COLOURS,
    FORMS,
    GROUNDS,
    RELATIONS,
    SIZE,
    SIZES,
    THINGS,
    WORDS,
    Caption,
    Thing,
    parse,
    render,
    sample_caption,
)
from shapes.worlds import FIRST


def scores(pictures: list[np.ndarray], prompts: list[str]) -> np.ndarray:
    return judge(torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255, prompts).numpy()


def drawn(count: int, seed: int = 0) -> tuple[list[Caption], list[np.ndarray]]:
    rng = random.Random(seed)
    asked = [sample_caption(rng) for _ in range(count)]
    return asked, [render(caption, rng) for caption in asked]


def test_nothing_is_the_embedded_worlds() -> None:
    assert not set(COLOURS) & set(FIRST.colours)
    assert not set(FORMS) & set(FIRST.shapes)
    assert not set(GROUNDS) & set(FIRST.backgrounds)
    assert not set(RELATIONS) & FIRST.words
    assert FIRST.size != SIZE


def test_prompts_come_back() -> None:
    asked, _ = drawn(500)
    assert [parse(caption.text) for caption in asked] == asked
    assert {word for caption in asked for word in caption.text.split()} == WORDS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a big teal",
        "a big teal star",
        "a teal big ring",
        "a big teal ring on mars",
        "a big teal ring near a big brown bar",
        "a big teal ring above",
        "two big teal rings",
        "a red circle",
    ],
)
def test_what_is_not_of_the_grammar_is_refused_and_not_judged(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        parse(text)
    assert np.isnan(scores([np.zeros((SIZE, SIZE, 3), np.uint8)], [text])).all()


def test_clean_pictures_are_read_as_they_were_meant() -> None:
    """All but small brown rings on sand, whose lines are too thin to keep their colour."""
    asked, pictures = drawn(600)
    found = scores(pictures, [caption.text for caption in asked])
    assert (found == 1).mean() > 0.98
    assert found.min() > 0.6


def test_every_wrong_word_costs() -> None:
    asked, pictures = drawn(300, seed=1)
    rng = random.Random(1)
    for caption, picture in zip(asked, pictures, strict=True):
        (right,) = scores([picture], [caption.text])
        thing = caption.things[0]
        wrong = [
            replace(thing, size=rng.choice([word for word in SIZES if word != thing.size])),
            replace(thing, colour=rng.choice([word for word in COLOURS if word != thing.colour])),
            replace(thing, form=rng.choice([word for word in FORMS if word != thing.form])),
        ]
        others = [replace(caption, things=(other, *caption.things[1:])) for other in wrong]
        if caption.relation in ("above", "below") and len(set(caption.things)) == 2:
            others.append(replace(caption, relation={"above": "below", "below": "above"}[caption.relation]))
        if caption.ground:
            others.append(replace(caption, ground=next(ground for ground in GROUNDS if ground != caption.ground)))
        if right == 1:
            assert (scores([picture] * len(others), [other.text for other in others]) < 1).all(), caption.text


def test_more_and_less_than_was_asked_for_cost() -> None:
    rng = random.Random(2)
    one, two = Caption((THINGS[0],)), Caption((THINGS[0], Thing("small", "pink", "cross")), "above")
    assert scores([render(two, rng)], [one.text])[0] == pytest.approx(0.5)
    assert scores([render(one, rng)], [two.text])[0] == pytest.approx(0.25)
    assert scores([np.full((SIZE, SIZE, 3), 200, np.uint8)], [one.text])[0] == 0


@pytest.mark.slow
def test_the_command_makes_a_pipeline_that_a_policy_draws_with(tmp_path: Path) -> None:
    steps = [f"--{part}-steps=2" for part in ("autoencoder", "decoder", "denoiser")]
    command = [sys.executable, "-m", "benchmarks.foreign_world", str(tmp_path / "model"), *steps]
    subprocess.run([*command, "--pictures=200", "--images=4"], check=True, capture_output=True)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    tokens = pipeline.tokenizer("a big teal ring above a small brown bar on slate").input_ids
    assert len(tokens) == 11 + 2  # one a word
    policy = Policy.load(PolicyConfig(model=str(tmp_path / "model"), device="cpu", steps=3))
    assert policy.latent_shape == (8, 6, 6)
    assert policy.encode(["a big teal ring"])["text"].shape == (1, 20, 48)
