"""Trains the scorer on comparisons: the true picture and prompt against a near miss of either.

The near misses are a caption with one fact changed, a picture of such a caption, and the true picture damaged: an
object half erased, its outline on the way to another shape, one too many fading in. Damage comes in two degrees that
are compared as well, so that scores also rank what is nearly right, as most samples of a policy are. A second true
picture, with other places and another open background, has to beat the same misses and to score like the first: what a
prompt leaves open must not pay, or a policy would learn to draw it. It never sees the gold judge or a sample of the
diffusion model.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from shapes.captions import Thing, sample_caption
from shapes.fit_pipeline import reconstruct
from shapes.near_miss import corrupt, other_than
from shapes.render import Drawn, Scene, arrange, draw, outline, paint, render
from shapes.resumable import Keep, resumable
from shapes.scorer import Scorer
from shapes.worlds import FIRST, Polar, World

_TIE = 0.05  # weight of the squared difference between two true pictures' scores
_GRADE = 0.5  # weight of the comparison between two degrees of damage


def damage(scene: Scene, place: str | None, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures of a scene in which one thing is spoilt: a little, and more.

    Args:
        scene: Of a caption.
        place: That the caption asks for, if it does.
        rng: Draws what is spoilt and how far.

    Returns:
        Both pictures, each `(size, size, 3)` uint8.
    """
    kinds = [_fade, _fade_in, _erase, _recolour, _bend, _bend, _dent]
    kinds += [_push] if len(scene.objects) > 1 else []
    kinds += [partial(_misplace, place)] * 3 if place else []
    spoil = rng.choice(kinds)(scene, rng.randrange(len(scene.objects)), rng)
    little, more = sorted((rng.uniform(0.15, 1.0), rng.uniform(0.15, 1.0)))
    return spoil(little), spoil(more)


# Each kind of damage draws what it needs to know, and gives the picture by how far the damage has gone, in [0, 1].
_Spoil = Callable[[float], np.ndarray]


def _fade(scene: Scene, index: int, rng: random.Random) -> _Spoil:
    """An object vanishes."""
    return _mix(draw(scene), draw(_without(scene, index)))


def _fade_in(scene: Scene, index: int, rng: random.Random) -> _Spoil:
    """An object that nobody asked for appears, half of the time one like another."""
    one, world = scene.objects[index], scene.world
    thing = one.thing if rng.random() < 0.5 else Thing(rng.choice(list(world.colours)), rng.choice(list(world.shapes)))
    x, y = (rng.uniform(one.radius, world.size - one.radius) for _ in range(2))
    return _mix(draw(scene), draw(replace(scene, objects=(*scene.objects, Drawn(thing, x, y, one.radius)))))


def _erase(scene: Scene, index: int, rng: random.Random) -> _Spoil:
    """An object is cut off from one side."""
    return _sweep(draw(scene), draw(_without(scene, index)), scene, index, rng)


def _recolour(scene: Scene, index: int, rng: random.Random) -> _Spoil:
    """An object takes another colour, all of it or from one side."""
    one = scene.objects[index]
    colour = other_than(one.thing.colour, scene.world.colours, rng)
    other = draw(_with(scene, index, replace(one, thing=replace(one.thing, colour=colour))))
    from_one_side = _sweep(draw(scene), other, scene, index, rng)
    return _mix(draw(scene), other) if rng.random() < 0.5 else from_one_side


def _bend(scene: Scene, index: int, rng: random.Random) -> _Spoil:
    """An object's outline turns into another shape's."""
    shape, shapes = scene.objects[index].thing.shape, scene.world.shapes
    own, other = _radii(shapes[shape]), _radii(shapes[other_than(shape, shapes, rng)])
    return lambda share: _paint(scene, index, (1 - share) * own + share * other)


def _dent(scene: Scene, index: int, rng: random.Random) -> _Spoil:
    """An object's outline gets bumps and dents."""
    own = _radii(scene.world.shapes[scene.objects[index].thing.shape])
    waves = [rng.gauss(0, 0.35) * np.sin(n * _DIRECTIONS + rng.uniform(0, 2 * np.pi)) for n in (2, 3, 4, 5)]
    return lambda share: _paint(scene, index, own * np.clip(1 + share * sum(waves), 0.2, 1.8))


def _push(scene: Scene, index: int, rng: random.Random) -> _Spoil:
    """An object is pushed into another."""
    one = scene.objects[index]
    other = rng.choice([o for o in scene.objects if o is not one])
    x, y = one.x - other.x, one.y - other.y
    close = (one.radius + other.radius) / math.hypot(x, y)

    def spoil(share: float) -> np.ndarray:
        stretch = (1.0 - 0.7 * share) * close
        return draw(_with(scene, index, replace(one, x=other.x + stretch * x, y=other.y + stretch * y)))

    return spoil


def _misplace(place: str, scene: Scene, index: int, rng: random.Random) -> _Spoil:
    """An object leaves its place."""
    one, size = scene.objects[index], scene.world.size
    (left, right), (top, bottom) = scene.world.places[place].box
    while True:
        x, y = (rng.uniform(one.radius, size - one.radius) for _ in range(2))
        if not (left < x / size < right and top < y / size < bottom):
            break
    return lambda share: draw(
        _with(scene, index, replace(one, x=one.x + share * (x - one.x), y=one.y + share * (y - one.y)))
    )


# Of the corners of a bent outline, clockwise from the top. The corners of a square lie between two and are a bit blunt.
_DIRECTIONS = np.linspace(0, 2 * np.pi, 60, endpoint=False)


def _radii(shape: Polar) -> np.ndarray:
    """How far an outline is from its centre in each of `_DIRECTIONS`, in radii."""
    corners = np.array(outline(shape, 0.0, 0.0, 1.0))
    closed = np.concatenate([corners, corners[:1]])
    edge = np.concatenate([np.linspace(a, b, 64, endpoint=False) for a, b in pairwise(closed)])
    angles, lengths = np.arctan2(edge[:, 0], -edge[:, 1]) % (2 * np.pi), np.hypot(*edge.T)
    order = angles.argsort()
    return np.interp(_DIRECTIONS, angles[order], lengths[order], period=2 * np.pi)


def _paint(scene: Scene, index: int, radii: np.ndarray) -> np.ndarray:
    """The scene with an outline of one's own for an object."""
    shapes = [scene.world.shapes[o.thing.shape] for o in scene.objects]
    outlines = [outline(shape, o.x, o.y, o.radius) for shape, o in zip(shapes, scene.objects, strict=True)]
    one = scene.objects[index]
    xs, ys = one.x + one.radius * radii * np.sin(_DIRECTIONS), one.y - one.radius * radii * np.cos(_DIRECTIONS)
    outlines[index] = list(zip(xs.tolist(), ys.tolist(), strict=True))
    return paint(scene, outlines)


def _sweep(clean: np.ndarray, spoilt: np.ndarray, scene: Scene, index: int, rng: random.Random) -> _Spoil:
    """From one picture to the other across an object, in a random direction."""
    one = scene.objects[index]
    rows, columns = np.indices(clean.shape[:2]) + 0.5
    angle = rng.uniform(0, 2 * np.pi)
    side = np.cos(angle) * (columns - one.x) + np.sin(angle) * (rows - one.y)
    return lambda share: _blend(clean, spoilt, np.clip((2 * share - 1) * one.radius - side + 0.5, 0, 1))


def _mix(clean: np.ndarray, spoilt: np.ndarray) -> _Spoil:
    return lambda share: _blend(clean, spoilt, np.full(clean.shape[:2], share))


def _blend(clean: np.ndarray, spoilt: np.ndarray, share: np.ndarray) -> np.ndarray:
    share = share[..., None]
    return np.round((1 - share) * clean + share * spoilt).astype(np.uint8)


def _without(scene: Scene, index: int) -> Scene:
    return replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :])


def _with(scene: Scene, index: int, one: Drawn) -> Scene:
    return replace(scene, objects=(*scene.objects[:index], one, *scene.objects[index + 1 :]))


def fit_scorer(
    vae: AutoencoderKL,
    steps: int,
    batch: int,
    pictures: int,
    rng: random.Random,
    world: World = FIRST,
    keep: Keep | None = None,
) -> Scorer:
    """Train on `pictures` sets (true, true again, wrong, spoilt, spoilt more), half of them through the autoencoder."""
    captions = [sample_caption(rng, held_out=None, world=world) for _ in range(pictures)]
    wrong = [corrupt(caption, rng) for caption in captions]
    sets = np.empty((pictures, 5, world.size, world.size, 3), np.uint8)
    for i, (caption, other) in enumerate(zip(tqdm(captions, desc="pictures"), wrong, strict=True)):
        scene = arrange(caption, rng)
        sets[i] = draw(scene), render(caption, rng), render(other, rng), *damage(scene, caption.place, rng)
    half = sets[: pictures // 2].reshape(-1, world.size, world.size, 3)
    sets[: pictures // 2] = reconstruct(vae, half).reshape(-1, 5, world.size, world.size, 3)
    scorer = Scorer(world=world.name)
    scorer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    words, wrong_words = scorer.tokenize([c.text for c in captions]), scorer.tokenize([c.text for c in wrong])
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    for progress in resumable("scorer", steps, keep, scorer=scorer, optimizer=optimizer, schedule=schedule):
        index = torch.randint(pictures, (batch,))
        images = torch.from_numpy(sets[index.numpy()]).float() / 255
        images = (images + 0.1 * torch.rand(batch, 1, 1, 1, 1) * torch.randn_like(images)).clamp(0, 1)
        tokens = scorer.tokens(images.flatten(0, 1).permute(0, 3, 1, 2))
        right = words[index].repeat_interleave(5, dim=0)
        score, second, other, little, more = scorer.read(tokens, right).unflatten(0, (batch, 5)).unbind(1)
        misses = (scorer.read(tokens.unflatten(0, (batch, 5))[:, 0], wrong_words[index]), other, little, more)
        loss = (bradley_terry(score, misses) + bradley_terry(second, misses)) / 2
        loss = loss + _GRADE * bradley_terry(little, (more,)) + _TIE * (score - second).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        won = torch.stack([score > miss for miss in misses]).float().mean()
        progress.set_postfix(loss=f"{loss.item():.3f}", right=f"{won.item():.3f}", refresh=False)
    return scorer.eval()


def bradley_terry(score: Tensor, misses: tuple[Tensor, ...]) -> Tensor:
    """Mean of -log sigmoid(score - miss); the square keeps scores from growing without end on pairs already won."""
    gaps = score - torch.stack(misses)
    return (F.softplus(-gaps) + 5e-3 * gaps.square()).mean()
