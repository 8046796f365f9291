"""The prompts of the foreign world, and how they are drawn: "a big teal ring above a small brown bar on slate".

Nothing in it is the embedded world's: not the colours, the forms, the grounds nor the words that relate two things.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image, ImageDraw

SIZE = 24  # pixels, both ways
_SUPERSAMPLING = 4

# sRGB, 0-255
COLOURS = {
    "teal": (0, 140, 140),
    "brown": (130, 70, 25),
    "pink": (250, 120, 190),
    "lime": (165, 215, 45),
    "navy": (25, 30, 110),
}
GROUNDS = {"sand": (238, 220, 178), "slate": (84, 98, 112)}
FORMS = ("ring", "bar", "pillar", "cross")
SIZES = {"big": (4.3, 5.2), "small": (2.8, 3.3)}  # pixels from the centre of a thing to its farthest edge
RELATIONS = ("above", "below", "beside")

STROKE = 0.4  # half the width of a bar, a pillar and an arm, in units of the size
HOLE = 0.5  # of a ring, in the same units
_GAP = 2.0  # pixels between two things
_SWAY = 3.0  # pixels; how far two things may be out of line


@dataclass(frozen=True)
class Thing:
    """A thing that a prompt names: a word of `SIZES`, of `COLOURS` and of `FORMS`."""

    size: str
    colour: str
    form: str

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.form}"


@dataclass(frozen=True)
class Caption:
    """What a prompt asks for.

    Args:
        things: One, or two.
        relation: How the first of two things lies to the second, of `RELATIONS`; either side is beside.
        ground: Of `GROUNDS`, or `None` where the prompt leaves it open.
    """

    things: tuple[Thing, ...]
    relation: str | None = None
    ground: str | None = None

    @property
    def text(self) -> str:
        """The prompt."""
        words = f" {self.relation} ".join(map(str, self.things))
        return f"{words} on {self.ground}" if self.ground else words


THINGS = tuple(Thing(*words) for words in product(SIZES, COLOURS, FORMS))
WORDS = {"a", "on", *SIZES, *COLOURS, *FORMS, *RELATIONS, *GROUNDS}


def parse(text: str) -> Caption:
    """Read a prompt back.

    Raises:
        ValueError: If it is not of the grammar.
    """
    words = text.split()
    ground = words[-1] if words[-2:-1] == ["on"] else None
    words = words[:-2] if ground else words
    relation = words[4] if len(words) == 9 else None
    things = [words[i + 1 : i + 4] for i in range(0, len(words), 5)]
    if things and all(len(thing) == 3 for thing in things):
        caption = Caption(tuple(Thing(*thing) for thing in things), relation, ground)
        if caption.text == text and set(text.split()) <= WORDS and set(caption.things) <= set(THINGS):
            return caption
    raise ValueError(
        f"The foreign world cannot read {text!r}; write 'a big teal ring above a small brown bar on slate'."
    )


def sample_caption(rng: random.Random) -> Caption:
    """One thing, or twice as often two; half of the time a ground."""
    ground = rng.choice(list(GROUNDS)) if rng.random() < 0.5 else None
    if rng.random() < 1 / 3:
        return Caption((rng.choice(THINGS),), None, ground)
    return Caption((rng.choice(THINGS), rng.choice(THINGS)), rng.choice(RELATIONS), ground)


def render(caption: Caption, rng: random.Random) -> np.ndarray:
    """A random picture of a caption: `(SIZE, SIZE, 3)` uint8."""
    radii = [rng.uniform(*SIZES[thing.size]) for thing in caption.things]
    centres = _places(caption, [extent(t.form, r) for t, r in zip(caption.things, radii, strict=True)], rng)
    ground = caption.ground or rng.choice(list(GROUNDS))
    return _draw(list(zip(caption.things, radii, centres, strict=True)), ground)


def crowd(rng: random.Random) -> np.ndarray:
    """A picture full of things, one over the other: an autoencoder learns faster from it than from empty ground."""
    objects = [
        (thing, rng.uniform(*SIZES[thing.size]), (rng.uniform(0, SIZE), rng.uniform(0, SIZE)))
        for thing in rng.choices(THINGS, k=8)
    ]
    return _draw(objects, rng.choice(list(GROUNDS)))


def _draw(objects: list[tuple[Thing, float, tuple[float, float]]], ground: str) -> np.ndarray:
    canvas = Image.new("RGB", (SIZE * _SUPERSAMPLING,) * 2, GROUNDS[ground])
    pen = ImageDraw.Draw(canvas)
    for thing, radius, (x, y) in objects:
        paint(pen, thing, _SUPERSAMPLING * x, _SUPERSAMPLING * y, _SUPERSAMPLING * radius, GROUNDS[ground])
    return np.asarray(canvas.reduce(_SUPERSAMPLING))


def extent(form: str, radius: float) -> tuple[float, float]:
    """Half the width and half the height of a form, in the radius's unit."""
    return {"bar": (radius, STROKE * radius), "pillar": (STROKE * radius, radius)}.get(form, (radius, radius))


def paint(
    pen: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, radius: float, ground: tuple[int, int, int]
) -> None:
    """Draw a thing around (x, y), in the canvas's pixels."""
    colour = COLOURS[thing.colour]
    if thing.form == "ring":
        hole = HOLE * radius
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        pen.ellipse((x - hole, y - hole, x + hole, y + hole), fill=ground)
    for form in ("bar", "pillar") if thing.form == "cross" else (thing.form,) * (thing.form != "ring"):
        w, h = extent(form, radius)
        pen.rectangle((x - w, y - h, x + w, y + h), fill=colour)


def _places(caption: Caption, extents: list[tuple[float, float]], rng: random.Random) -> list[tuple[float, float]]:
    """Centres, in pixels; half a pixel stays free at the edge."""
    if caption.relation is None:
        ((w, h),) = extents
        return [(rng.uniform(w + 0.5, SIZE - w - 0.5), rng.uniform(h + 0.5, SIZE - h - 0.5))]
    beside = caption.relation == "beside"
    swapped = caption.relation == "below" or (beside and rng.random() < 0.5)
    # Half the length along the axis on which they follow one another, and half the breadth across it.
    first, second = [extent if beside else extent[::-1] for extent in (extents[::-1] if swapped else extents)]
    slack = SIZE - 1 - 2 * first[0] - 2 * second[0] - _GAP
    before, between = sorted(rng.uniform(0, slack) for _ in range(2))
    along = (0.5 + first[0] + before, 0.5 + 2 * first[0] + _GAP + between + second[0])
    edge = 0.5 + max(first[1], second[1]) + _SWAY / 2
    middle = rng.uniform(edge, SIZE - edge)
    across = [middle + rng.uniform(-_SWAY / 2, _SWAY / 2) for _ in range(2)]
    centres = list(zip(along, across, strict=True) if beside else zip(across, along, strict=True))
    return centres[::-1] if swapped else centres
