"""The foreign world's judge: reads a picture by rule and says which share of the prompt's facts it shows.

A reward as one's own are, a plain function: `kind: benchmarks.foreign_world.judge:judge`. It knows what the world is,
so it measures; what a run is trained on may know less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor

from benchmarks.foreign_world.world import COLOURS, GROUNDS, Caption, Thing, parse
from shapes.judge import colour, coverage, nearest, segment

_BIG = 3.8  # pixels, between the biggest small thing and the smallest big one


@dataclass(frozen=True)
class Seen:
    """One thing found in a picture; colour or form is `None` where it is none that the world knows."""

    size: str
    colour: str | None
    form: str | None
    x: float  # pixels
    y: float


def judge(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """The share of each prompt's facts that its picture shows: `(B,)` in [0, 1], NaN for a prompt of another world.

    The things are one fact: a third each for size, colour and form, in the best assignment of what is found to what is
    asked for, over the larger of both numbers. How they lie, and the ground where it is asked for, are one fact each.
    """
    pixels = (images.permute(0, 2, 3, 1) * 255).round().numpy()
    return torch.tensor([_score(p, prompt) for p, prompt in zip(pixels, prompts, strict=True)])


def _score(pixels: np.ndarray, prompt: str) -> float:
    try:
        caption = parse(prompt)
    except ValueError:
        return float("nan")
    backdrop, things = read(pixels)
    facts = list(max(_facts(caption, order) for order in _orders(things, len(caption.things))))
    facts[0] *= len(caption.things) / max(len(caption.things), len(things))
    if caption.ground:
        facts.append(float(backdrop == caption.ground))
    return float(np.mean(facts))


def read(pixels: np.ndarray) -> tuple[str, list[Seen]]:
    """The ground and the things of a picture, `(H, W, 3)` float from 0 to 255."""
    backdrop, masks = segment(pixels)
    things = []
    for mask in masks:
        covered = coverage(pixels, mask, backdrop)
        rows, columns = np.nonzero(mask)
        half = covered.max(axis=0).sum() / 2, covered.max(axis=1).sum() / 2  # edge pixels count by what is covered
        size = "big" if max(half) > _BIG else "small"
        seen = Seen(size, colour(pixels, mask, COLOURS), _form(covered, half), columns.mean(), rows.mean())
        things.append(seen)
    return nearest(backdrop[None], GROUNDS)[0], things


def _form(covered: np.ndarray, half: tuple[float, float]) -> str | None:
    """By how long it is, then by whether it is hollow or has no corners."""
    width, height = half
    if max(half) > 1.7 * min(half):
        return "bar" if width > height else "pillar"
    rows, columns = np.indices(covered.shape)
    y, x = ((covered * axis).sum() / covered.sum() for axis in (rows, columns))
    across, down = abs(columns - x) / width, abs(rows - y) / height
    inner = covered[(across < 0.35) & (down < 0.35)].mean()
    corners = covered[(across > 0.6) & (across < 1) & (down > 0.6) & (down < 1)].mean()
    share = covered.sum() / (4 * width * height)
    if inner < 0.6:
        return "ring"
    return "cross" if corners < 0.35 and share < 0.75 else None


def _orders(things: list[Seen], wanted: int) -> list[tuple[Seen | None, ...]]:
    return list(permutations([*things, *[None] * wanted], wanted))


def _facts(caption: Caption, order: tuple[Seen | None, ...]) -> tuple[float, ...]:
    agreement = float(np.mean([_alike(s, w) for s, w in zip(order, caption.things, strict=True)]))
    if caption.relation is None:
        return (agreement,)
    a, b = order
    return agreement, float(a is not None and b is not None and _lie(a, b, caption.relation))


def _alike(seen: Seen | None, wanted: Thing) -> float:
    if seen is None:
        return 0.0
    return ((seen.size == wanted.size) + (seen.colour == wanted.colour) + (seen.form == wanted.form)) / 3


def _lie(a: Seen, b: Seen, relation: str) -> bool:
    x, y = b.x - a.x, b.y - a.y
    return {"above": y > abs(x), "below": -y > abs(x), "beside": abs(x) > abs(y)}[relation]
