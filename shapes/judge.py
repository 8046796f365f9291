"""The gold judge: reads a picture symbolically and counts which of the prompt's facts hold.

Segments the foreground, names every object by nearest palette colour and best-fitting outline, and compares the list
with the caption. It is rules only, shares nothing with the learned scorer and is never trained on, so a run in which
the scorer's reward climbs and the gold score does not is over-optimising.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from shapes.captions import Caption, Thing
from shapes.render import outline
from shapes.worlds import FIRST, RGB, Place, World

_MIN_AREA = 8  # pixels; smaller specks are dirt, not objects
_FOREGROUND_DISTANCE = 50.0  # RGB units (0-255) between a pixel and the background
_MIN_OVERLAP = 0.75  # intersection over union with the best outline; less is no shape at all
_MIN_PURITY = 0.7  # share of an object's inner pixels that must have its colour
_TEMPLATE = 40  # samples; side of the grid on which outlines are compared


@dataclass(frozen=True)
class Seen:
    """One object found in a picture; colour or shape is `None` where it is none that the world knows."""

    colour: str | None
    shape: str | None
    x: float  # centre, in units of the picture
    y: float


@dataclass(frozen=True)
class Reading:
    """What a picture shows."""

    objects: tuple[Seen, ...]
    background: str


def read(image: np.ndarray, world: World = FIRST) -> Reading:
    """Parse a picture of a world, `(H, W, 3)` uint8."""
    pixels = image.astype(np.float32)
    backdrop, masks = segment(pixels)
    objects = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        x, y = (columns.mean() + 0.5) / image.shape[1], (rows.mean() + 0.5) / image.shape[0]
        shape = _shape(coverage(pixels, mask, backdrop), world)
        objects.append(Seen(colour(pixels, mask, world.colours), shape, float(x), float(y)))
    return Reading(tuple(objects), nearest(backdrop[None], world.backgrounds)[0])


def segment(pixels: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """What is behind, and where something is in front of it.

    Args:
        pixels: `(H, W, 3)` float, 0 to 255.

    Returns:
        The colour of the border, `(3,)`, and a mask `(H, W)` of each object.
    """
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    backdrop = np.median(border, axis=0)
    foreground = np.linalg.norm(pixels - backdrop, axis=-1) > _FOREGROUND_DISTANCE
    labels, count = ndimage.label(foreground)
    masks = [labels == index for index in range(1, count + 1)]
    return backdrop, [mask for mask in masks if mask.sum() >= _MIN_AREA]


def gold_score(image: np.ndarray, caption: Caption) -> float:
    """The share of the caption's facts that the picture shows, in [0, 1].

    The objects are one fact: half a point an object for its colour and half for its shape under the best assignment of
    found to requested objects, over the larger of both numbers (so objects that nobody asked for cost). The place and
    the background, where asked for, are one fact each.

    Args:
        image: `(H, W, 3)` uint8.
        caption: What was asked for.
    """
    reading = read(image, caption.world)
    facts = [_object_score(reading.objects, caption.things)]
    if caption.place:
        facts.append(float(any(_is_at(o, caption.world.places[caption.place]) for o in reading.objects)))
    if caption.background:
        facts.append(float(reading.background == caption.background))
    return float(np.mean(facts))


def _object_score(seen: tuple[Seen, ...], wanted: tuple[Thing, ...]) -> float:
    if not seen:
        return 0.0
    agreement = np.array([[0.5 * (s.colour == w.colour) + 0.5 * (s.shape == w.shape) for w in wanted] for s in seen])
    rows, columns = linear_sum_assignment(agreement, maximize=True)
    return float(agreement[rows, columns].sum()) / max(len(seen), len(wanted))


def _is_at(seen: Seen, place: Place) -> bool:
    # A tenth off the centre, and further that way than the other: what is at the top is not on the right as well.
    x, y = seen.x - 0.5, seen.y - 0.5
    dx, dy = place.direction
    towards, across = dx * x + dy * y, dx * y - dy * x
    return towards > 0.1 and towards > abs(across)


def nearest(colours: np.ndarray, palette: Mapping[str, RGB]) -> list[str]:
    """The name of the palette's colour that is nearest to each of `(N, 3)`."""
    distances = np.linalg.norm(colours[:, None] - np.array(list(palette.values()))[None], axis=-1)
    return [list(palette)[i] for i in distances.argmin(axis=1)]


def colour(pixels: np.ndarray, mask: np.ndarray, palette: Mapping[str, RGB]) -> str | None:
    """The palette's name for an object's colour; `None` where its pixels do not agree on one."""
    # Edge pixels mix with the background, so only the inner ones vote.
    inner = ndimage.binary_erosion(mask)
    names = nearest(pixels[inner if inner.sum() >= 4 else mask], palette)
    winner = max(set(names), key=names.count)
    return winner if names.count(winner) >= _MIN_PURITY * len(names) else None


def coverage(pixels: np.ndarray, mask: np.ndarray, backdrop: np.ndarray) -> np.ndarray:
    """How much of each pixel the object covers, in [0, 1]: where it lies between backdrop and the object's colour."""
    inner = ndimage.binary_erosion(mask)
    towards = np.median(pixels[inner if inner.any() else mask], axis=0) - backdrop
    near = ndimage.binary_dilation(mask)
    return np.clip((pixels - backdrop) @ towards / (towards @ towards), 0.0, 1.0) * near


def _shape(covered: np.ndarray, world: World) -> str | None:
    """The outline that fits best once both have unit area and their centre of mass at the origin."""
    rows, columns = np.indices(covered.shape)
    area = covered.sum()
    y, x = (covered * rows).sum() / area, (covered * columns).sum() / area
    grid_y, grid_x = np.sqrt(area) * _grid()
    found = ndimage.map_coordinates(covered, [y + grid_y, x + grid_x], order=1, mode="constant")
    overlaps = {
        shape: float(np.minimum(found, t).sum() / np.maximum(found, t).sum()) for shape, t in _templates(world).items()
    }
    best = max(overlaps, key=lambda shape: overlaps[shape])
    return best if overlaps[best] >= _MIN_OVERLAP else None


def _grid() -> np.ndarray:
    """Sampling points `(2, _TEMPLATE, _TEMPLATE)`, y then x, in units of the square root of an object's area."""
    axis = (np.arange(_TEMPLATE) + 0.5) / _TEMPLATE * 2.4 - 1.2
    return np.stack(np.meshgrid(axis, axis, indexing="ij"))


@cache
def _templates(world: World) -> dict[str, np.ndarray]:
    """Every outline with unit area and its centre of mass at the origin, sampled on `_grid`."""
    templates = {}
    for shape, corners in world.shapes.items():
        x, y = np.array(outline(corners, 0.0, 0.0, 1.0)).T
        cross = x * np.roll(y, -1) - np.roll(x, -1) * y
        area = cross.sum() / 2  # the shoelace formula, and the centroid after it
        centre = np.array([((v + np.roll(v, -1)) * cross).sum() / (6 * area) for v in (x, y)])
        points = (np.stack([x, y], axis=1) - centre) / np.sqrt(abs(area))
        canvas = Image.new("L", (8 * _TEMPLATE,) * 2)
        pixels = (points + 1.2) / 2.4 * canvas.width
        ImageDraw.Draw(canvas).polygon([tuple(p) for p in pixels], fill=255)
        # As soft as the edges of an object a handful of pixels wide.
        templates[shape] = ndimage.gaussian_filter(np.asarray(canvas.reduce(8), np.float32) / 255, sigma=1.5)
    return templates
