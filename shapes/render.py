"""Draws a caption: objects of random size and position, anti-aliased, that never touch."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from shapes.captions import BACKGROUNDS, Caption, Thing

SIZE = 32  # pixels, both ways
_SUPERSAMPLING = 4

# sRGB, 0-255
PALETTE = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 222, 40),
    "green": (34, 150, 60),
    "blue": (36, 80, 215),
    "purple": (148, 50, 176),
}
BACKGROUND_PALETTE = {"white": (245, 245, 245), "black": (18, 18, 18), "grey": (128, 128, 128)}

# Radius of the circle around a shape, in pixels, by the number of objects in the picture.
_RADII = {1: (6.0, 9.0), 2: (5.0, 6.5), 3: (4.5, 5.5), 4: (4.2, 5.0)}
# Where the centre of an object "on the left" may lie, in units of the picture: (x range, y range).
PLACE_BOXES = {
    "left": ((0.20, 0.30), (0.35, 0.65)),
    "right": ((0.70, 0.80), (0.35, 0.65)),
    "top": ((0.35, 0.65), (0.20, 0.30)),
    "bottom": ((0.35, 0.65), (0.70, 0.80)),
}


@dataclass(frozen=True)
class Drawn:
    """One object in a picture: what it is, its centre and the radius of the circle around it, in pixels."""

    thing: Thing
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """Everything that a picture shows."""

    objects: tuple[Drawn, ...]
    background: str


def outline(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """The polygon of a shape inscribed in the circle at (x, y); a circle is a 48-gon."""
    if shape == "star":
        angles = [math.pi * i / 5 for i in range(10)]
        radii = [radius if i % 2 == 0 else 0.42 * radius for i in range(10)]
    else:
        corners, turn = {"circle": (48, 0.0), "square": (4, math.pi / 4), "triangle": (3, 0.0)}[shape]
        angles = [2 * math.pi * i / corners + turn for i in range(corners)]
        # The same visual weight for each: a circle fills its outline, a triangle hardly half of it.
        radii = [radius * {"circle": 0.85, "square": 1.0, "triangle": 1.1}[shape]] * corners
    return [(x + r * math.sin(a), y - r * math.cos(a)) for a, r in zip(angles, radii, strict=True)]


def arrange(caption: Caption, rng: random.Random) -> Scene:
    """Draw sizes, positions and an open background for a caption; objects keep two pixels between them."""
    low, high = _RADII[len(caption.things)]
    while True:
        objects: list[Drawn] = []
        for thing in caption.things:
            radius = rng.uniform(low, 7.0 if caption.place else high)
            if caption.place:
                (x0, x1), (y0, y1) = PLACE_BOXES[caption.place]
                x, y = SIZE * rng.uniform(x0, x1), SIZE * rng.uniform(y0, y1)
            else:
                x, y = (rng.uniform(radius + 1, SIZE - radius - 1) for _ in range(2))
            if any(math.hypot(x - o.x, y - o.y) < radius + o.radius + 2 for o in objects):
                break
            objects.append(Drawn(thing, x, y, radius))
        else:
            return Scene(tuple(objects), caption.background or rng.choice(BACKGROUNDS))


def draw(scene: Scene) -> np.ndarray:
    """Paint a scene: `(SIZE, SIZE, 3)` uint8."""
    return paint(
        [(outline(o.thing.shape, o.x, o.y, o.radius), o.thing.colour) for o in scene.objects], scene.background
    )


def paint(polygons: Sequence[tuple[Sequence[tuple[float, float]], str]], background: str) -> np.ndarray:
    """Paint polygons, each corners in pixels and a colour's name, one over the other: `(SIZE, SIZE, 3)` uint8."""
    canvas = Image.new("RGB", (SIZE * _SUPERSAMPLING,) * 2, BACKGROUND_PALETTE[background])
    pen = ImageDraw.Draw(canvas)
    for corners, colour in polygons:
        pen.polygon([(_SUPERSAMPLING * x, _SUPERSAMPLING * y) for x, y in corners], fill=PALETTE[colour])
    return np.asarray(canvas.reduce(_SUPERSAMPLING))


def render(caption: Caption, rng: random.Random) -> np.ndarray:
    """A random picture of a caption: `(SIZE, SIZE, 3)` uint8."""
    return draw(arrange(caption, rng))
