"""Pictures show what the caption says: as many objects, apart, of the right colour, in the right place."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from shapes.captions import KINDS, Caption, Thing, all_captions, sample_caption
from shapes.render import Scene, arrange, draw, outline, render
from shapes.worlds import FIRST, WORLDS, World

captions = st.sampled_from([c for world in WORLDS.values() for kind in KINDS for c in all_captions(kind, world=world)])
seeds = st.integers(0, 2**32)
many = settings(deadline=None, max_examples=100)


def foreground(scene: Scene, image: np.ndarray) -> np.ndarray:
    """Where a picture is anything but plain background, `(size, size)` bool."""
    return (image != np.array(scene.world.backgrounds[scene.background], np.uint8)).any(axis=-1)


@given(captions, seeds)
@many
def test_a_picture_shows_as_many_separate_objects_as_asked(caption: Caption, seed: int) -> None:
    scene = arrange(caption, random.Random(seed))
    assert ndimage.label(foreground(scene, draw(scene)))[1] == len(caption.things)


@pytest.mark.parametrize(("world", "number"), [(world, n) for world in WORLDS.values() for n in world.numbers])
def test_crowded_pictures_keep_their_objects_apart(world: World, number: int) -> None:
    rng = random.Random(number)
    colour = next(iter(world.colours))
    for _ in range(100):
        scene = arrange(Caption((Thing(colour, rng.choice(list(world.shapes))),) * number, world=world), rng)
        assert ndimage.label(foreground(scene, draw(scene)))[1] == number


@given(captions, seeds)
@many
def test_objects_have_their_colour_at_their_centre(caption: Caption, seed: int) -> None:
    scene = arrange(caption, random.Random(seed))
    image = draw(scene)
    assert tuple(o.thing for o in scene.objects) == caption.things
    assert [tuple(image[int(o.y), int(o.x)]) for o in scene.objects] == [
        caption.world.colours[t.colour] for t in caption.things
    ]


@pytest.mark.parametrize("place", FIRST.places)
@pytest.mark.parametrize("shape", FIRST.shapes)
def test_the_asked_edge_is_the_nearest_one(place: str, shape: str) -> None:
    rng = random.Random(0)
    for _ in range(100):
        scene = arrange(Caption((Thing("blue", shape),), place), rng)
        y, x = ndimage.center_of_mass(foreground(scene, draw(scene)))
        distances = {"left": x, "right": 31 - x, "top": y, "bottom": 31 - y}
        assert min(distances, key=lambda edge: distances[edge]) == place


@pytest.mark.parametrize("background", FIRST.backgrounds)
def test_the_background_is_the_asked_one(background: str) -> None:
    for seed in range(50):
        image = render(Caption((Thing("green", "star"),) * 3, background=background), random.Random(seed))
        assert tuple(image[0, 0]) == FIRST.backgrounds[background]


def test_an_open_background_takes_every_value() -> None:
    caption = Caption((Thing("green", "star"),))
    drawn = {arrange(caption, random.Random(seed)).background for seed in range(50)}
    assert drawn == set(FIRST.backgrounds)


@given(captions, seeds)
@settings(deadline=None, max_examples=50)
def test_a_picture_is_a_function_of_caption_and_seed(caption: Caption, seed: int) -> None:
    image = render(caption, random.Random(seed))
    assert image.shape == (caption.world.size, caption.world.size, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, render(caption, random.Random(seed)))


def test_seeds_give_different_pictures_of_one_caption() -> None:
    caption = Caption((Thing("red", "square"),), background="white")
    assert len({render(caption, random.Random(seed)).tobytes() for seed in range(50)}) == 50


def test_edges_are_anti_aliased() -> None:
    image = render(Caption((Thing("red", "circle"),), background="white"), random.Random(0))
    colours = {tuple(pixel) for pixel in image.reshape(-1, 3)}
    assert len(colours - {FIRST.colours["red"], FIRST.backgrounds["white"]}) > 5


@pytest.mark.parametrize("shape", FIRST.shapes)
@given(x=st.floats(-50, 50), y=st.floats(-50, 50), radius=st.floats(0.1, 50))
@settings(deadline=None, max_examples=30)
def test_outlines_move_and_scale_with_their_circle(shape: str, x: float, y: float, radius: float) -> None:
    corners = FIRST.shapes[shape]
    unit = np.array(outline(corners, 0.0, 0.0, 1.0))
    np.testing.assert_allclose(outline(corners, x, y, radius), np.array([x, y]) + radius * unit, atol=1e-9)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", np.pi * 0.85**2),
        ("square", 2.0),
        ("triangle", 3 * np.sqrt(3) / 4 * 1.1**2),
        ("star", 10 * 0.42 * np.sin(np.pi / 5) / 2),
    ],
)
def test_painted_areas_are_those_of_the_outlines(shape: str, area: float) -> None:
    """In units of the radius squared; painting rounds edges outwards by a fraction of a pixel."""
    scene = arrange(Caption((Thing("blue", shape),), background="white"), random.Random(3))
    white, blue = (np.array(c, float) for c in (FIRST.backgrounds["white"], FIRST.colours["blue"]))
    coverage = (draw(scene) - white) @ (blue - white) / ((blue - white) @ (blue - white))
    assert coverage.sum() == pytest.approx(area * scene.objects[0].radius ** 2, rel=0.08)


@pytest.mark.parametrize(
    ("world", "digest"),
    [
        ("first", "97b0f9220e16ca9c31ba87ce23d33faaeb8ea0ae140703a6876e9d9e2eb9c322"),
        ("second", "765443785fd8075ae2c33fca50a933c4b72661e22525e3cbf32071cca4be1121"),
    ],
)
def test_a_seed_draws_the_pictures_that_the_shipped_weights_were_trained_on(world: str, digest: str) -> None:
    """Words and pixels, so that no change to one world's data or to the drawing touches another in silence."""
    rng, seen = random.Random(0), hashlib.sha256()
    for _ in range(300):
        caption = sample_caption(rng, held_out=None, world=WORLDS[world])
        seen.update(caption.text.encode() + render(caption, rng).tobytes())
    assert seen.hexdigest() == digest
