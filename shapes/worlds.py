"""The worlds as data: what there is to draw, in which colours and outlines, and the words that ask for it.

`FIRST` is the one that Reinoise is tuned on, `SECOND` one that shares nothing with it but the kinds of prompt, and that
nothing is tuned on. Captions carry their world, so that drawing, damaging and judging them need not be told of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RGB = tuple[int, int, int]  # sRGB, 0-255
Polar = tuple[tuple[float, float], ...]  # corners clockwise: angle from the top, distance from the centre in radii


@dataclass(frozen=True)
class Place:
    """Where a prompt may put a lone object.

    Args:
        words: That ask for it.
        direction: The unit vector from the picture's centre towards it, x to the right and y down.
        box: Where the object's centre may lie, in units of the picture: x range, y range.
    """

    words: str
    direction: tuple[float, float]
    box: tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, eq=False)
class World:
    """Everything in which one world differs from another.

    Args:
        name: As commands and configurations have it.
        size: Of a picture in pixels, both ways; a multiple of 8.
        colours: Of objects.
        shapes: Outlines around the origin, by a name whose plural has an s.
        backgrounds: Colours of what is behind.
        numbers: What stands before equal objects, by how many there are.
        places: By a name of their own.
        radii: Range of the radius of the circle around an object, in pixels, by the number of objects in the picture.
        place_radius: Largest radius where a place is asked for.
        joint: The word between two objects.
        ground: What a prompt says of a background, with `{}` for its name.
    """

    name: str
    size: int
    colours: Mapping[str, RGB]
    shapes: Mapping[str, Polar]
    backgrounds: Mapping[str, RGB]
    numbers: Mapping[int, str]
    places: Mapping[str, Place]
    radii: Mapping[int, tuple[float, float]]
    place_radius: float
    joint: str
    ground: str

    @property
    def words(self) -> set[str]:
        """Every word of the grammar."""
        phrases = [self.joint, self.ground.replace("{}", ""), *self.numbers.values()]
        phrases += [place.words for place in self.places.values()]
        plurals = {f"{shape}s" for shape in self.shapes}
        words = {word for phrase in phrases for word in phrase.split()}
        return {"a", "an", *self.colours, *self.shapes, *self.backgrounds} | plurals | words


def _regular(corners: int, turn: float, radius: float) -> Polar:
    return tuple((2 * math.pi * i / corners + turn, radius) for i in range(corners))


def _polar(corners: Sequence[tuple[float, float]]) -> Polar:
    """Corners from (x, y), y down."""
    return tuple((math.atan2(x, -y), math.hypot(x, y)) for x, y in corners)


def _heart(corners: int) -> Polar:
    turns = [2 * math.pi * i / corners for i in range(corners)]
    heights = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in turns]
    return _polar([(math.sin(t) ** 3, -height / 16) for t, height in zip(turns, heights, strict=True)])


FIRST = World(
    name="first",
    size=32,
    colours={
        "red": (214, 39, 40),
        "orange": (255, 140, 0),
        "yellow": (250, 222, 40),
        "green": (34, 150, 60),
        "blue": (36, 80, 215),
        "purple": (148, 50, 176),
    },
    # The same visual weight for each: a circle fills its outline, a triangle hardly half of it.
    shapes={
        "circle": _regular(48, 0.0, 0.85),
        "square": _regular(4, math.pi / 4, 1.0),
        "triangle": _regular(3, 0.0, 1.1),
        "star": tuple((math.pi * i / 5, 1.0 if i % 2 == 0 else 0.42) for i in range(10)),
    },
    backgrounds={"white": (245, 245, 245), "black": (18, 18, 18), "grey": (128, 128, 128)},
    numbers={2: "two", 3: "three", 4: "four"},
    places={
        "left": Place("on the left", (-1, 0), ((0.20, 0.30), (0.35, 0.65))),
        "right": Place("on the right", (1, 0), ((0.70, 0.80), (0.35, 0.65))),
        "top": Place("at the top", (0, -1), ((0.35, 0.65), (0.20, 0.30))),
        "bottom": Place("at the bottom", (0, 1), ((0.35, 0.65), (0.70, 0.80))),
    },
    radii={1: (6.0, 9.0), 2: (5.0, 6.5), 3: (4.5, 5.5), 4: (4.2, 5.0)},
    place_radius=7.0,
    joint="and",
    ground="on a {} background",
)

_DIAGONAL = math.sqrt(0.5)
_NEAR, _FAR = (0.25, 0.33), (0.67, 0.75)

SECOND = World(
    name="second",
    size=24,
    colours={
        "pink": (245, 115, 185),
        "teal": (0, 130, 130),
        "brown": (120, 62, 18),
        "lime": (150, 215, 40),
        "navy": (22, 28, 120),
    },
    shapes={
        "heart": _heart(48),
        "arrow": _polar([(0, -1), (0.9, 0.1), (0.4, 0.1), (0.4, 0.95), (-0.4, 0.95), (-0.4, 0.1), (-0.9, 0.1)]),
        "hexagon": _regular(6, math.pi / 6, 0.9),
        "bar": _polar([(1, -0.45), (1, 0.45), (-1, 0.45), (-1, -0.45)]),
        "diamond": _polar([(0, -1.1), (0.7, 0), (0, 1.1), (-0.7, 0)]),
    },
    backgrounds={"cream": (245, 235, 205), "slate": (90, 105, 120), "sky": (150, 200, 240)},
    numbers={2: "a pair of", 3: "a trio of"},
    places={
        "northwest": Place("in the northwest", (-_DIAGONAL, -_DIAGONAL), (_NEAR, _NEAR)),
        "northeast": Place("in the northeast", (_DIAGONAL, -_DIAGONAL), (_FAR, _NEAR)),
        "southwest": Place("in the southwest", (-_DIAGONAL, _DIAGONAL), (_NEAR, _FAR)),
        "southeast": Place("in the southeast", (_DIAGONAL, _DIAGONAL), (_FAR, _FAR)),
    },
    radii={1: (5.0, 7.5), 2: (4.3, 5.3), 3: (3.9, 4.5)},
    place_radius=6.0,
    joint="with",
    ground="over {}",
)

WORLDS = {world.name: world for world in (FIRST, SECOND)}
