"""The reader: what it is taught, and that it learns."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

from shapes.captions import parse
from shapes.fit_reader import fit, measure, pictures
from shapes.reader import Reader
from shapes.worlds import FIRST, WORLDS, World


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_what_is_taught_is_what_was_drawn(world: World) -> None:
    reader = Reader(width=8, world=world.name)
    images, things, grounds = pictures(40, reader, None, random.Random(0))
    assert images.shape == (40, 3, world.size, world.size)
    assert set(things.unique().tolist()) == {0.0, 1.0}
    assert (things.sum(dim=1) >= 1).all()
    for image, ground in zip(images, grounds, strict=True):
        backdrop = (255 * image).round().permute(1, 2, 0)[0, 0].tolist()
        assert backdrop == list(world.backgrounds[reader.backgrounds[ground]])


def test_facts_are_the_things_and_the_background_that_are_asked_for() -> None:
    reader = Reader(width=8)
    things, ground = reader.facts(parse("a red square and a purple triangle on a black background"))
    assert [reader.things[i] for i in things] == sorted(
        parse("a red square and a purple triangle").things, key=reader.things.index
    )
    assert [reader.backgrounds[i] for i in ground] == ["black"]
    assert [len(of) for of in reader.facts(parse("four blue stars"))] == [1, 0]


@pytest.mark.slow
def test_a_reader_learns_from_renderings() -> None:
    torch.manual_seed(0)
    reader = Reader(width=8, world=FIRST.name)
    images, things, _ = unseen = pictures(60, reader, None, random.Random(1))

    def missed() -> float:
        with torch.no_grad():
            return float(F.binary_cross_entropy_with_logits(reader(images)[0], things))

    before = missed()
    fit(reader, pictures(100, reader, None, random.Random(0)), 12)
    assert missed() < 0.9 * before
    assert measure(reader, unseen).keys() == {"things", "background"}
