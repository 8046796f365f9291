"""The rule by which prompts are chosen: the worst that are not hopeless, and held-out combinations by a seed."""

from __future__ import annotations

import random
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import shapes
from shapes import choose_prompts
from shapes.captions import KINDS, Caption, parse
from shapes.render import render
from shapes.worlds import WORLDS

SHIPPED = Path(shapes.__file__).parent / "prompts"


def right(caption: Caption) -> int:
    """How many of two samples of a caption are right, made up."""
    return zlib.crc32(caption.text.encode()) % 3


def sample(pipeline: object, captions: list[Caption]) -> np.ndarray:
    """A base model that draws nothing at all where it is wrong."""
    rng = random.Random(0)
    pictures = [render(caption, rng) for caption in captions]
    for i, caption in enumerate(captions):
        if i % 2 >= right(caption):
            pictures[i] = np.full_like(pictures[i], pictures[i][0, 0])
    return np.stack(pictures)


@pytest.mark.parametrize(("world", "prefix"), [("first", ""), ("second", "second_")])
def test_the_worst_that_are_not_hopeless_become_the_hard_prompts(
    world: str, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(choose_prompts, "sample", sample)
    pipeline = SimpleNamespace(unet=SimpleNamespace(to=lambda **_: None))
    monkeypatch.setattr(choose_prompts.StableDiffusionPipeline, "from_pretrained", lambda *_, **__: pipeline)
    words = ["--world", world, "--out", str(tmp_path), "--samples", "2", "--worst", "2", "--hardest", "2"]
    monkeypatch.setattr(sys, "argv", ["choose_prompts", *words])
    choose_prompts.main()
    lines = (tmp_path / f"{prefix}hardest.txt").read_text().splitlines()
    hard = [parse(line, WORLDS[world]) for line in lines]
    assert [caption.kind for caption in hard] == [kind for kind in KINDS for _ in range(2)]
    assert not any(caption.held_out for caption in hard)
    assert {right(caption) for caption in hard} == {1}  # 0 would be hopeless, and so many have 1
    said = capsys.readouterr().out
    assert all(f"gold 0.50, right 0.50  {line}" in said for line in lines)
    # The images play no part in which combinations are held out, so the shipped lists come back.
    name = f"{prefix}held_out.txt"
    assert (tmp_path / name).read_text() == (SHIPPED / name).read_text()
