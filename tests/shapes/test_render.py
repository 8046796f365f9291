"""Pictures show what the caption says: as many objects, apart, of the right colour, in the right place."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from shapes.captions import BACKGROUNDS, KINDS, NUMBERS, PLACES, SHAPES, Caption, Thing, all_captions
from shapes.render import BACKGROUND_PALETTE, PALETTE, SIZE, Scene, arrange, draw, outline, render

captions = st.sampled_from([caption for kind in KINDS for caption in all_captions(kind)])
seeds = st.integers(0, 2**32)
many = settings(deadline=None, max_examples=100)


def foreground(scene: Scene, image: np.ndarray) -> np.ndarray:
    """Where a picture is anything but plain background, `(SIZE, SIZE)` bool."""
    return (image != np.array(BACKGROUND_PALETTE[scene.background], np.uint8)).any(axis=-1)


@given(captions, seeds)
@many
def test_a_picture_shows_as_many_separate_objects_as_asked(caption: Caption, seed: int) -> None:
    scene = arrange(caption, random.Random(seed))
    assert ndimage.label(foreground(scene, draw(scene)))[1] == len(caption.things)


@pytest.mark.parametrize("number", NUMBERS)
def test_crowded_pictures_keep_their_objects_apart(number: int) -> None:
    rng = random.Random(number)
    for _ in range(100):
        scene = arrange(Caption((Thing("red", rng.choice(SHAPES)),) * number), rng)
        assert ndimage.label(foreground(scene, draw(scene)))[1] == number


@given(captions, seeds)
@many
def test_objects_have_their_colour_at_their_centre(caption: Caption, seed: int) -> None:
    scene = arrange(caption, random.Random(seed))
    image = draw(scene)
    assert tuple(o.thing for o in scene.objects) == caption.things
    assert [tuple(image[int(o.y), int(o.x)]) for o in scene.objects] == [PALETTE[t.colour] for t in caption.things]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_asked_edge_is_the_nearest_one(place: str, shape: str) -> None:
    rng = random.Random(0)
    for _ in range(100):
        scene = arrange(Caption((Thing("blue", shape),), place), rng)
        y, x = ndimage.center_of_mass(foreground(scene, draw(scene)))
        distances = {"left": x, "right": SIZE - 1 - x, "top": y, "bottom": SIZE - 1 - y}
        assert min(distances, key=lambda edge: distances[edge]) == place


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_the_background_is_the_asked_one(background: str) -> None:
    for seed in range(50):
        image = render(Caption((Thing("green", "star"),) * 3, background=background), random.Random(seed))
        assert tuple(image[0, 0]) == BACKGROUND_PALETTE[background]


def test_an_open_background_takes_every_value() -> None:
    caption = Caption((Thing("green", "star"),))
    drawn = {arrange(caption, random.Random(seed)).background for seed in range(50)}
    assert drawn == set(BACKGROUNDS)


@given(captions, seeds)
@settings(deadline=None, max_examples=50)
def test_a_picture_is_a_function_of_caption_and_seed(caption: Caption, seed: int) -> None:
    image = render(caption, random.Random(seed))
    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, render(caption, random.Random(seed)))


def test_seeds_give_different_pictures_of_one_caption() -> None:
    caption = Caption((Thing("red", "square"),), background="white")
    assert len({render(caption, random.Random(seed)).tobytes() for seed in range(50)}) == 50


def test_edges_are_anti_aliased() -> None:
    image = render(Caption((Thing("red", "circle"),), background="white"), random.Random(0))
    colours = {tuple(pixel) for pixel in image.reshape(-1, 3)}
    assert len(colours - {PALETTE["red"], BACKGROUND_PALETTE["white"]}) > 5


@pytest.mark.parametrize("shape", SHAPES)
@given(x=st.floats(-50, 50), y=st.floats(-50, 50), radius=st.floats(0.1, 50))
@settings(deadline=None, max_examples=30)
def test_outlines_move_and_scale_with_their_circle(shape: str, x: float, y: float, radius: float) -> None:
    unit = np.array(outline(shape, 0.0, 0.0, 1.0))
    np.testing.assert_allclose(outline(shape, x, y, radius), np.array([x, y]) + radius * unit, atol=1e-9)


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
    white, blue = (np.array(c, float) for c in (BACKGROUND_PALETTE["white"], PALETTE["blue"]))
    coverage = (draw(scene) - white) @ (blue - white) / ((blue - white) @ (blue - white))
    assert coverage.sum() == pytest.approx(area * scene.objects[0].radius ** 2, rel=0.08)
