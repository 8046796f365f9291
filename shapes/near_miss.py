"""Captions that are nearly another one: what a picture must be told apart from."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from shapes.captions import Caption, Thing, sample_caption


def corrupt(caption: Caption, rng: random.Random) -> Caption:
    """A caption with one fact changed (or, one time in five, another caption)."""
    world = caption.world
    if rng.random() < 0.2:
        return sample_caption(rng, held_out=None, world=world)
    things = list(caption.things)
    changes = ["colour", "shape"]
    changes += ["place"] if caption.place else []
    changes += ["background"] if caption.background else []
    changes += ["number"] * 2 if caption.kind in ("colour", "count") else []
    changes += ["swap"] * 2 if caption.kind == "composition" else []
    change = rng.choice(changes)
    if change == "place":
        return replace(caption, place=other_than(caption.place, world.places, rng))
    if change == "background":
        return replace(caption, background=other_than(caption.background, world.backgrounds, rng))
    if change == "number":
        return replace(caption, things=(things[0],) * other_than(len(things), [1, *world.numbers], rng))
    if change == "swap":
        a, b = things
        return replace(caption, things=(Thing(b.colour, a.shape), Thing(a.colour, b.shape)))
    one = rng.choice(things)
    if change == "colour":
        changed = replace(one, colour=other_than(one.colour, world.colours, rng))
    else:
        changed = replace(one, shape=other_than(one.shape, world.shapes, rng))
    # All equal things change together, so that the result is a caption again.
    return replace(caption, things=tuple(changed if t == one else t for t in things))


def other_than(value: Any, options: Iterable[Any], rng: random.Random) -> Any:
    """One of the options that is not this one."""
    return rng.choice([option for option in options if option != value])
