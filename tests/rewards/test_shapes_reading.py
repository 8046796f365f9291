"""The reading reward: it reads renderings right, its features see backgrounds, and strange prompts have no score."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rewards.reward import to_images
from rewards.shapes_reading import ShapesReading
from shapes import READERS
from shapes.captions import Caption, sample_caption
from shapes.fit_reader import measure, pictures
from shapes.render import arrange, draw, render
from shapes.worlds import WORLDS, World

everywhere = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)


def rendered(captions: list[Caption], seed: int = 0) -> torch.Tensor:
    rng = random.Random(seed)
    return to_images(np.stack([render(caption, rng) for caption in captions]))


def some(world: World, count: int) -> list[Caption]:
    rng = random.Random(3)
    return [sample_caption(rng, held_out=None, world=world) for _ in range(count)]


@everywhere
def test_what_is_shipped_reads_renderings(world: World) -> None:
    reader = ShapesReading(world.name)._reader
    found = measure(reader, pictures(400, reader, None, random.Random(1)))
    assert found["background"] > 0.97
    assert found["things"] > 0.1  # of 2^24 sets


@everywhere
def test_a_picture_scores_higher_under_its_own_prompt_than_under_another(world: World) -> None:
    reward, captions = ShapesReading(world.name), some(world, 40)
    images = rendered(captions)
    own = reward.score(images, [caption.text for caption in captions])
    others = reward.score(images, [caption.text for caption in captions[1:] + captions[:1]])
    assert own.mean() > others.mean() + 0.2
    assert (own > others).float().mean() > 0.8
    assert ((own >= 0) & (own <= 1)).all()


def test_a_prompt_that_nobody_can_read_has_no_score() -> None:
    scores = ShapesReading().score(torch.rand(2, 3, 32, 32), ["a red circle", "a photograph of a horse"])
    assert scores.isfinite().tolist() == [True, False]


@everywhere
def test_features_tell_backgrounds_apart(world: World) -> None:
    """The same objects in the same places: another background is far away, a little noise is not."""
    rng, reward = random.Random(0), ShapesReading(world.name)
    scenes = [arrange(caption, rng) for caption in some(world, 20)]
    names = list(world.backgrounds)
    turned = [replace(scene, background=names[(names.index(scene.background) + 1) % len(names)]) for scene in scenes]
    here, there = (to_images(np.stack([draw(scene) for scene in those])) for those in (scenes, turned))
    noisy = (here + 2 / 255 * torch.randn(here.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    features = [reward.embed(images) for images in (here, there, noisy)]
    torch.testing.assert_close(features[0].norm(dim=1), torch.ones(20))
    far, near = ((features[0] - of).norm(dim=1) for of in features[1:])
    assert (far > 3 * near).all()


def test_what_is_shipped_is_small_and_another_world_is_refused() -> None:
    assert all(sum(file.stat().st_size for file in Path(folder).iterdir()) < 1e6 for folder in READERS.values())
    with pytest.raises(ValueError, match="no embedded world 'third'"):
        ShapesReading("third")
