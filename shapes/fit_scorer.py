"""Trains the scorer on comparisons: the true picture and prompt against a near miss of either.

The near misses are a caption with one fact changed, a picture of such a caption, and the true picture damaged (an
object half erased, two shapes blended into one). A second true picture, with other places and another open background,
has to beat the same misses and to score like the first: what a prompt leaves open must not pay, or a policy would learn
to draw it. It never sees the gold judge or a sample of the diffusion model.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor
from tqdm import tqdm

from shapes.captions import BACKGROUNDS, COLOURS, NUMBERS, PLACES, SHAPES, Caption, Thing, sample_caption
from shapes.fit_pipeline import reconstruct
from shapes.render import PALETTE, SIZE, Scene, arrange, draw, render
from shapes.scorer import Scorer, tokenize

_TIE = 0.05  # weight of the squared difference between two true pictures' scores


def corrupt(caption: Caption, rng: random.Random) -> Caption:
    """A caption with one fact changed (or, one time in five, another caption)."""
    if rng.random() < 0.2:
        return sample_caption(rng, held_out=None)
    things = list(caption.things)
    changes = ["colour", "shape"]
    changes += ["place"] if caption.place else []
    changes += ["background"] if caption.background else []
    changes += ["number"] * 2 if caption.kind in ("colour", "count") else []
    changes += ["swap"] * 2 if caption.kind == "composition" else []
    change = rng.choice(changes)
    if change == "place":
        return replace(caption, place=_other(caption.place, list(PLACES), rng))
    if change == "background":
        return replace(caption, background=_other(caption.background, BACKGROUNDS, rng))
    if change == "number":
        return replace(caption, things=(things[0],) * _other(len(things), [1, *NUMBERS], rng))
    if change == "swap":
        a, b = things
        return replace(caption, things=(Thing(b.colour, a.shape), Thing(a.colour, b.shape)))
    one = rng.choice(things)
    if change == "colour":
        changed = replace(one, colour=_other(one.colour, COLOURS, rng))
    else:
        changed = replace(one, shape=_other(one.shape, SHAPES, rng))
    # All equal things change together, so that the result is a caption again.
    return replace(caption, things=tuple(changed if t == one else t for t in things))


def damage(scene: Scene, rng: random.Random) -> np.ndarray:
    """A picture of the scene with one object spoilt: `(SIZE, SIZE, 3)` uint8."""
    index = rng.randrange(len(scene.objects))
    victim = scene.objects[index]
    kind = rng.choice(["erase", "blend shape", "blend colour", "vanish"])
    if kind == "vanish":
        return draw(replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :]))
    if kind == "erase":
        gone = draw(replace(scene, objects=scene.objects[:index] + scene.objects[index + 1 :])).astype(np.float32)
        rows, columns = np.indices((SIZE, SIZE)) + 0.5
        angle = rng.uniform(0, 2 * np.pi)
        side = np.cos(angle) * (columns - victim.x) + np.sin(angle) * (rows - victim.y)
        keep = np.clip(side + rng.uniform(-0.3, 0.3) * victim.radius + 0.5, 0, 1)[..., None]
        return np.round(keep * draw(scene) + (1 - keep) * gone).astype(np.uint8)
    if kind == "blend shape":
        other = replace(victim.thing, shape=_other(victim.thing.shape, SHAPES, rng))
    else:
        other = replace(victim.thing, colour=_other(victim.thing.colour, tuple(PALETTE), rng))
    objects = (*scene.objects[:index], replace(victim, thing=other), *scene.objects[index + 1 :])
    share = rng.uniform(0.35, 0.65)
    return np.round(share * draw(scene) + (1 - share) * draw(replace(scene, objects=objects))).astype(np.uint8)


def _other(value: Any, options: Sequence[Any], rng: random.Random) -> Any:
    return rng.choice([option for option in options if option != value])


def fit_scorer(vae: AutoencoderKL, steps: int, batch: int, pictures: int, rng: random.Random) -> Scorer:
    """Train on `pictures` sets (true, true again, wrong, damaged), half of them seen through the autoencoder."""
    captions = [sample_caption(rng, held_out=None) for _ in range(pictures)]
    wrong = [corrupt(caption, rng) for caption in captions]
    sets = np.empty((pictures, 4, SIZE, SIZE, 3), np.uint8)
    for i, (caption, other) in enumerate(zip(tqdm(captions, desc="pictures"), wrong, strict=True)):
        scene = arrange(caption, rng)
        sets[i] = draw(scene), render(caption, rng), render(other, rng), damage(scene, rng)
    half = sets[: pictures // 2].reshape(-1, SIZE, SIZE, 3)
    sets[: pictures // 2] = reconstruct(vae, half).reshape(-1, 4, SIZE, SIZE, 3)
    words, wrong_words = tokenize([c.text for c in captions]), tokenize([c.text for c in wrong])

    scorer = Scorer()
    scorer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    progress = tqdm(range(steps), desc="scorer")
    for _ in progress:
        index = torch.randint(pictures, (batch,))
        images = torch.from_numpy(sets[index.numpy()]).float() / 255
        images = (images + 0.1 * torch.rand(batch, 1, 1, 1, 1) * torch.randn_like(images)).clamp(0, 1)
        true, again, other, damaged = (
            scorer.tokens(images.flatten(0, 1).permute(0, 3, 1, 2)).unflatten(0, (batch, 4)).unbind(1)
        )
        score, second = scorer.read(true, words[index]), scorer.read(again, words[index])
        misses = (
            scorer.read(true, wrong_words[index]),
            scorer.read(other, words[index]),
            scorer.read(damaged, words[index]),
        )
        loss = (bradley_terry(score, misses) + bradley_terry(second, misses)) / 2
        loss = loss + _TIE * (score - second).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        right = torch.stack([score > miss for miss in misses]).float().mean()
        progress.set_postfix(loss=f"{loss.item():.3f}", right=f"{right.item():.3f}", refresh=False)
    return scorer.eval()


def bradley_terry(score: Tensor, misses: tuple[Tensor, ...]) -> Tensor:
    """Mean of -log sigmoid(score - miss); the square keeps scores from growing without end on pairs already won."""
    gaps = score - torch.stack(misses)
    return (F.softplus(-gaps) + 5e-3 * gaps.square()).mean()
