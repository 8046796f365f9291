"""Draws a caption: objects of random size and position, anti-aliased, that never touch."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from shapes.captions import Caption, Thing
from shapes.worlds import FIRST, Polar, World

_SUPERSAMPLING = 4


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
    world: World = field(default=FIRST, repr=False)


def outline(corners: Polar, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """The corners of a shape inscribed in the circle at (x, y)."""
    return [(x + radius * r * math.sin(a), y - radius * r * math.cos(a)) for a, r in corners]


def arrange(caption: Caption, rng: random.Random) -> Scene:
    """Draw sizes, positions and an open background for a caption; objects keep two pixels between them."""
    world = caption.world
    low, high = world.radii[len(caption.things)]
    while True:
        objects: list[Drawn] = []
        for thing in caption.things:
            radius = rng.uniform(low, world.place_radius if caption.place else high)
            if caption.place:
                (x0, x1), (y0, y1) = world.places[caption.place].box
                x, y = world.size * rng.uniform(x0, x1), world.size * rng.uniform(y0, y1)
            else:
                x, y = (rng.uniform(radius + 1, world.size - radius - 1) for _ in range(2))
            if any(math.hypot(x - o.x, y - o.y) < radius + o.radius + 2 for o in objects):
                break
            objects.append(Drawn(thing, x, y, radius))
        else:
            return Scene(tuple(objects), caption.background or rng.choice(list(world.backgrounds)), world)


def draw(scene: Scene) -> np.ndarray:
    """Paint a scene: `(size, size, 3)` uint8."""
    shapes = scene.world.shapes
    return paint(scene, [outline(shapes[o.thing.shape], o.x, o.y, o.radius) for o in scene.objects])


def paint(scene: Scene, outlines: Sequence[Sequence[tuple[float, float]]]) -> np.ndarray:
    """Paint a scene with outlines of one's own, corners in pixels, one over the other: `(size, size, 3)` uint8."""
    world = scene.world
    canvas = Image.new("RGB", (world.size * _SUPERSAMPLING,) * 2, world.backgrounds[scene.background])
    pen = ImageDraw.Draw(canvas)
    for one, corners in zip(scene.objects, outlines, strict=True):
        scaled = [(_SUPERSAMPLING * x, _SUPERSAMPLING * y) for x, y in corners]
        pen.polygon(scaled, fill=world.colours[one.thing.colour])
    return np.asarray(canvas.reduce(_SUPERSAMPLING))


def render(caption: Caption, rng: random.Random) -> np.ndarray:
    """A random picture of a caption: `(size, size, 3)` uint8."""
    return draw(arrange(caption, rng))
