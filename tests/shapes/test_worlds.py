"""The worlds as data: complete, readable by a judge of colours, and the second with nothing of the first."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from shapes.captions import KINDS, all_captions
from shapes.worlds import FIRST, RGB, SECOND, WORLDS, World

everywhere = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def distance(a: RGB, b: RGB) -> float:
    return math.dist(a, b)


def test_the_second_world_shares_nothing_with_the_first_but_small_words() -> None:
    assert FIRST.words & SECOND.words == {"a", "an", "the"}
    assert not set(FIRST.shapes.values()) & set(SECOND.shapes.values())
    first, second = ([*world.colours.values(), *world.backgrounds.values()] for world in (FIRST, SECOND))
    assert min(distance(a, b) for a in first for b in second) > 20
    assert FIRST.size != SECOND.size
    assert not set(FIRST.radii.values()) & set(SECOND.radii.values())
    assert not {place.direction for place in FIRST.places.values()} & {p.direction for p in SECOND.places.values()}


@everywhere
def test_the_words_are_those_of_the_captions(world: World) -> None:
    texts = [caption.text for kind in KINDS for caption in all_captions(kind, world=world)]
    assert {word for text in texts for word in text.split()} | {"an"} == world.words


@everywhere
def test_colours_are_told_apart_and_stand_out_from_every_background(world: World) -> None:
    """The judge takes what is 50 units away from the background for an object."""
    assert min(distance(a, b) for a, b in combinations(world.colours.values(), 2)) > 50
    assert min(distance(a, b) for a in world.colours.values() for b in world.backgrounds.values()) > 80


@everywhere
def test_places_lie_where_their_directions_point(world: World) -> None:
    for place in world.places.values():
        assert math.hypot(*place.direction) == pytest.approx(1)
        for x in place.box[0]:
            for y in place.box[1]:
                dx, dy = place.direction
                towards, across = dx * (x - 0.5) + dy * (y - 0.5), dx * (y - 0.5) - dy * (x - 0.5)
                assert towards > max(0.1, 1.3 * abs(across))


@everywhere
def test_pictures_can_be_halved_three_times_and_hold_what_is_counted(world: World) -> None:
    assert world.size % 8 == 0
    assert set(world.radii) == {1, 2, *world.numbers}
    assert all(0 < low < high < world.size / 2 for low, high in world.radii.values())
