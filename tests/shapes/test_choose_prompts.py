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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--write", "0"], "'0' is not a whole number"),
        (["--write", "9", "--best", "4"], "--write must be at most --best, which is 4"),
        (["--candidates", "0"], "not a whole number"),
    ],
)
def test_numbers_that_cannot_be_are_refused_before_anything_is_drawn(
    words: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["choose_prompts", *words])
    with pytest.raises(SystemExit):
        choose_prompts.main()
    assert said in capsys.readouterr().err


def test_without_write_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_prompts, "sample", sample)
    pipeline = SimpleNamespace(unet=SimpleNamespace(to=lambda **_: None))
    monkeypatch.setattr(choose_prompts.StableDiffusionPipeline, "from_pretrained", lambda *_, **__: pipeline)
    words = ["--out", str(tmp_path / "new"), "--among", "2", "--samples", "2", "--best", "2", "--held-out", "3"]
    monkeypatch.setattr(sys, "argv", ["choose_prompts", "--candidates", "4", *words])
    choose_prompts.main()
    assert not (tmp_path / "new").exists()


def test_the_gain_of_the_best_is_the_mean_over_all_subsets() -> None:
    rng = np.random.default_rng(0)
    gold, reward = rng.random((2, 6)), rng.normal(size=(2, 6))
    subsets = [list(subset) for subset in combinations(range(6), 3)]
    best = [[gold[i, subset][reward[i, subset].argmax()] for subset in subsets] for i in range(2)]
    expected = np.mean(best, axis=1) - gold.mean(axis=1)
    np.testing.assert_allclose(choose_prompts.gain_of_best(gold, reward, of=3), expected, atol=1e-12)
