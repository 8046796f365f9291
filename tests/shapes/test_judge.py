"""The gold judge: right on clean pictures, strict on near misses, with partial credit in closed form."""

from __future__ import annotations

import ast
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import shapes
from shapes.captions import KINDS, Caption, Thing, all_captions, parse
from shapes.judge import gold_score, read
from shapes.render import Drawn, Scene, draw, render
from shapes.worlds import FIRST, WORLDS

BY_WORLD = {name: {kind: all_captions(kind, world=world) for kind in KINDS} for name, world in WORLDS.items()}
CAPTIONS = BY_WORLD["first"]
SIZE = FIRST.size
everywhere = pytest.mark.parametrize("world", WORLDS)
# Corners far enough apart for four objects of radius 5, the left edge and the centre.
SPOTS = {"nw": (8.0, 8.0), "ne": (24.0, 8.0), "sw": (8.0, 24.0), "se": (24.0, 24.0)}
SPOTS |= {"w": (8.0, 16.0), "c": (16.0, 16.0)}


def picture(*objects: str, background: str = "white") -> np.ndarray:
    """A hand-made picture of objects such as "red square nw"."""
    drawn = []
    for words in objects:
        colour, shape, spot = words.split()
        drawn.append(Drawn(Thing(colour, shape), *SPOTS[spot], radius=5.0))
    return draw(Scene(tuple(drawn), background))


@everywhere
@pytest.mark.parametrize("kind", KINDS)
def test_clean_pictures_score_one(kind: str, world: str) -> None:
    rng = random.Random(kind)
    for _ in range(150):
        caption = rng.choice(BY_WORLD[world][kind])
        assert gold_score(render(caption, rng), caption) == 1.0, caption.text


def _colour(caption: Caption, rng: random.Random) -> Caption:
    wrong = rng.choice([c for c in caption.world.colours if c != caption.things[0].colour])
    return replace(caption, things=(replace(caption.things[0], colour=wrong), *caption.things[1:]))


def _shape(caption: Caption, rng: random.Random) -> Caption:
    wrong = rng.choice([s for s in caption.world.shapes if s != caption.things[0].shape])
    return replace(caption, things=(replace(caption.things[0], shape=wrong), *caption.things[1:]))


def _number(caption: Caption, rng: random.Random) -> Caption:
    wrong = rng.choice([n for n in (1, *caption.world.numbers) if n != len(caption.things)])
    return replace(caption, things=caption.things[:1] * wrong)


def _swap(caption: Caption, rng: random.Random) -> Caption:
    a, b = caption.things
    return replace(caption, things=(Thing(b.colour, a.shape), Thing(a.colour, b.shape)))


def _place(caption: Caption, rng: random.Random) -> Caption:
    return replace(caption, place=rng.choice([p for p in caption.world.places if p != caption.place]))


def _background(caption: Caption, rng: random.Random) -> Caption:
    return replace(caption, background=rng.choice([b for b in caption.world.backgrounds if b != caption.background]))


@everywhere
@pytest.mark.parametrize(
    ("corrupt", "kinds"),
    [
        (_colour, KINDS),
        (_shape, KINDS),
        (_number, ("colour", "count")),
        (_swap, ("composition",)),
        (_place, ("location",)),
        (_background, KINDS),
    ],
)
def test_a_near_miss_scores_less_than_one(
    corrupt: Callable[[Caption, random.Random], Caption], kinds: tuple[str, ...], world: str
) -> None:
    rng = random.Random(0)
    for _ in range(150):
        # With a background, so that the near miss can contradict it.
        background = rng.choice(list(WORLDS[world].backgrounds))
        caption = replace(rng.choice(BY_WORLD[world][rng.choice(kinds)]), background=background)
        miss = corrupt(caption, rng)
        assert gold_score(render(caption, rng), miss) < 1.0, f"{caption.text!r} passed for {miss.text!r}"


@pytest.mark.parametrize(
    ("prompt", "image", "score"),
    [
        # The objects alone are one fact.
        ("a red square", picture("red square c"), 1),
        ("a red square", picture("blue square c"), 1 / 2),
        ("a red square", picture("red circle c"), 1 / 2),
        ("a red square", picture("blue circle c"), 0),
        ("a red square", picture(), 0),
        # Objects that are missing, and objects that nobody asked for.
        ("a red square and a blue circle", picture("red square nw", "blue circle se"), 1),
        ("a red square and a blue circle", picture("blue circle nw", "red square se"), 1),
        ("a red square and a blue circle", picture("red square nw"), 1 / 2),
        ("a red square and a blue circle", picture("red circle nw", "blue square se"), 1 / 2),
        ("a red square and a blue circle", picture("red square nw", "blue square se"), 3 / 4),
        ("a red square", picture("red square nw", "blue circle se"), 1 / 2),
        ("a red square", picture("red square nw", "red square ne", "red square sw", "red square se"), 1 / 4),
        ("four red stars", picture("red star nw", "red star ne", "red star sw"), 3 / 4),
        ("four red stars", picture("red star nw", "red star ne", "red star sw", "blue star se"), 7 / 8),
        ("two red stars", picture("red star nw", "red star ne", "red star sw"), 2 / 3),
        # Place and background are one fact each, where they are asked for.
        ("a red square on the left", picture("red square w"), 1),
        ("a red square on the left", picture("blue square w"), (1 / 2 + 1) / 2),
        ("a red square on the right", picture("red square w"), 1 / 2),
        ("a red square on the right", picture(), 0),
        ("a red square on a white background", picture("red square c"), 1),
        ("a red square on a black background", picture("red square c"), 1 / 2),
        ("a red square on a black background", picture(background="black"), 1 / 2),
        ("a red square on the left on a grey background", picture("red circle w", background="grey"), 5 / 6),
        ("a red square on the right on a white background", picture("blue circle w"), 1 / 3),
    ],
)
def test_partial_credit_is_the_share_of_facts(prompt: str, image: np.ndarray, score: float) -> None:
    assert gold_score(image, parse(prompt)) == pytest.approx(score)


@pytest.mark.parametrize("background", FIRST.backgrounds)
@pytest.mark.parametrize("shape", FIRST.shapes)
@pytest.mark.parametrize("colour", FIRST.colours)
def test_read_names_every_thing_and_where_it_is(colour: str, shape: str, background: str) -> None:
    reading = read(picture(f"{colour} {shape} ne", background=background))
    (seen,) = reading.objects
    assert (seen.colour, seen.shape, reading.background) == (colour, shape, background)
    assert (seen.x, seen.y) == pytest.approx((24 / 32, 8 / 32), abs=0.04)


def test_a_bar_has_a_colour_and_no_shape() -> None:
    image = picture().copy()
    image[14:18, 4:28] = FIRST.colours["red"]
    (seen,) = read(image).objects
    assert (seen.colour, seen.shape) == ("red", None)


def test_an_object_of_two_colours_has_none() -> None:
    image = picture("red square c").copy()
    right = np.indices((SIZE, SIZE))[1] >= SIZE // 2
    image[right & (image == FIRST.colours["red"]).all(axis=-1)] = FIRST.colours["blue"]
    (seen,) = read(image).objects
    assert (seen.colour, seen.shape) == (None, "square")


def test_specks_are_not_objects() -> None:
    image = picture("red square c").copy()
    image[2:4, 2:4] = FIRST.colours["blue"]
    assert gold_score(image, parse("a red square")) == 1.0


def test_the_order_of_things_does_not_matter() -> None:
    rng = random.Random(0)
    for caption in rng.sample(CAPTIONS["composition"], 100):
        image = render(rng.choice(CAPTIONS["composition"]), rng)
        turned = replace(caption, things=caption.things[::-1])
        assert gold_score(image, caption) == pytest.approx(gold_score(image, turned))


def test_an_object_more_than_asked_always_costs() -> None:
    rng = random.Random(0)
    spots = [spot for spot in SPOTS if len(spot) == 2]
    for _ in range(100):
        thing, extra = (f"{rng.choice(list(FIRST.colours))} {rng.choice(list(FIRST.shapes))}" for _ in range(2))
        here, there = rng.sample(spots, 2)
        caption = Caption((Thing(*thing.split()),))
        assert gold_score(picture(f"{thing} {here}"), caption) == 1.0
        assert gold_score(picture(f"{thing} {here}", f"{extra} {there}"), caption) == 0.5


@everywhere
def test_noise_that_a_decoder_leaves_does_not_change_the_verdict(world: str) -> None:
    rng, noise = random.Random(0), np.random.default_rng(0)
    perfect = 0
    for _ in range(100):
        caption = rng.choice(BY_WORLD[world][rng.choice(KINDS)])
        image = render(caption, rng)
        image = image + noise.uniform(-12, 12, image.shape)
        perfect += gold_score(image.clip(0, 255).astype(np.uint8), caption) == 1.0
    assert perfect >= 97


@given(
    image=hnp.arrays(np.uint8, st.tuples(st.integers(4, 40), st.integers(4, 40), st.just(3))),
    caption=st.sampled_from([caption for world in WORLDS for kind in KINDS for caption in BY_WORLD[world][kind]]),
)
@settings(deadline=None, max_examples=50)
def test_any_picture_gets_a_score_between_zero_and_one(image: np.ndarray, caption: Caption) -> None:
    assert 0.0 <= gold_score(image, caption) <= 1.0


@pytest.mark.parametrize("background", FIRST.backgrounds)
def test_an_empty_picture_shows_nothing(background: str) -> None:
    image = np.full((SIZE, SIZE, 3), FIRST.backgrounds[background], np.uint8)
    assert read(image).objects == ()
    assert gold_score(image, parse("two red stars")) == 0.0


@pytest.mark.parametrize("shape", WORLDS["second"].shapes)
@pytest.mark.parametrize("place", WORLDS["second"].places)
def test_an_object_is_at_one_place_of_the_second_world_and_at_no_other(place: str, shape: str) -> None:
    world = WORLDS["second"]
    rng = random.Random(0)
    asked = {name: Caption((Thing("teal", shape),), name, world=world) for name in world.places}
    for _ in range(20):
        image = render(asked[place], rng)
        assert {name: gold_score(image, caption) for name, caption in asked.items()} == {
            name: 1.0 if name == place else 0.5 for name in asked
        }


def _imports(module: str) -> set[str]:
    tree = ast.parse((Path(shapes.__file__).parent / f"{module}.py").read_text())
    found = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return found | {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}


def test_the_judge_and_the_scorer_share_only_the_world_itself() -> None:
    """Otherwise the judge could not tell over-optimisation of the scorer."""
    ours = {name for name in _imports("judge") if name.startswith("shapes")}
    assert ours == {"shapes.captions", "shapes.render", "shapes.worlds"}
    assert not any(name.startswith("torch") for name in _imports("judge"))
    blind = ("scorer", "fit_scorer", "render", "captions", "worlds")
    assert "shapes.judge" not in set().union(*(_imports(module) for module in blind))
