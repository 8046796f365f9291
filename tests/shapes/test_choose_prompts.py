"""The rule by which prompts are chosen: two colours, and where the best image gains most; held-out ones by a seed."""

from __future__ import annotations

import random
import sys
import zlib
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import shapes
from shapes import choose_prompts
from shapes.captions import Caption, parse
from shapes.render import render
from shapes.worlds import WORLDS

SHIPPED = Path(shapes.__file__).parent / "prompts"


def right(caption: Caption) -> int:
    """How many of four samples of a caption are right, made up."""
    return zlib.crc32(caption.text.encode()) % 5


def sample(pipeline: object, captions: list[Caption]) -> np.ndarray:
    """A base model that draws nothing at all where it is wrong."""
    rng = random.Random(0)
    pictures = [render(caption, rng) for caption in captions]
    for i, caption in enumerate(captions):
        if i % 4 >= right(caption):
            pictures[i] = np.full_like(pictures[i], pictures[i][0, 0])
    return np.stack(pictures)


@pytest.mark.parametrize(("world", "prefix"), [("first", ""), ("second", "second_")])
def test_prompts_whose_best_images_are_far_better_than_most_are_chosen(
    world: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choose_prompts, "sample", sample)
    pipeline = SimpleNamespace(unet=SimpleNamespace(to=lambda **_: None))
    monkeypatch.setattr(choose_prompts.StableDiffusionPipeline, "from_pretrained", lambda *_, **__: pipeline)
    words = ["--world", world, "--out", str(tmp_path), "--among", "2", "--samples", "4", "--best", "4"]
    monkeypatch.setattr(sys, "argv", ["choose_prompts", *words, "--write", "4"])
    choose_prompts.main()
    lines = (tmp_path / f"{prefix}teachable.txt").read_text().splitlines()
    chosen = [parse(line, WORLDS[world]) for line in lines]
    assert len(chosen) == 4
    assert len({thing.colour for caption in chosen for thing in caption.things}) == 2
    assert not any(caption.place for caption in chosen)
    assert not any(caption.held_out for caption in chosen)
    assert {right(caption) for caption in chosen} == {2}  # the best of two gains half of what there is to gain
    said = capsys.readouterr().out
    assert all(f"right 0.50  {line}" in said for line in lines)
    # The images play no part in which combinations are held out, so the shipped lists come back.
    name = f"{prefix}held_out.txt"
    assert (tmp_path / name).read_text() == (SHIPPED / name).read_text()


def test_the_gain_of_the_best_is_the_mean_over_all_subsets() -> None:
    rng = np.random.default_rng(0)
    gold, reward = rng.random((2, 6)), rng.normal(size=(2, 6))
    subsets = [list(subset) for subset in combinations(range(6), 3)]
    best = [[gold[i, subset][reward[i, subset].argmax()] for subset in subsets] for i in range(2)]
    expected = np.mean(best, axis=1) - gold.mean(axis=1)
    np.testing.assert_allclose(choose_prompts.gain_of_best(gold, reward, of=3), expected, atol=1e-12)
