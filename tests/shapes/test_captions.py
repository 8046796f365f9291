"""The grammar reads back what it writes, and the split holds out combinations, not words."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shapes
from shapes.captions import KINDS, Caption, Thing, all_captions, parse, sample_caption
from shapes.worlds import FIRST, SECOND, WORLDS, World

EVERY = [caption for kind in KINDS for caption in all_captions(kind)]
OF_SECOND = [caption for kind in KINDS for caption in all_captions(kind, world=SECOND)]
everywhere = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
PROMPTS = Path(shapes.__file__).parent / "prompts"


def test_parse_inverts_text() -> None:
    assert [parse(caption.text) for caption in EVERY] == EVERY
    assert [parse(caption.text, SECOND) for caption in OF_SECOND] == OF_SECOND


def test_no_two_captions_share_a_text() -> None:
    texts = {caption.text for caption in EVERY + OF_SECOND}
    assert len(texts) == len(EVERY) + len(OF_SECOND)


def test_neither_world_reads_the_other() -> None:
    for caption in random.Random(0).sample(EVERY, 100):
        with pytest.raises(ValueError, match=f"second shapes world cannot read the prompt '{caption.text}'"):
            parse(caption.text, SECOND)
    with pytest.raises(ValueError, match=r"such as 'a purple star', 'four purple stars'"):
        parse(OF_SECOND[-1].text)


@pytest.mark.parametrize(
    ("things", "place", "background", "text"),
    [
        ([("pink", "heart")], None, "sky", "a pink heart over sky"),
        ([("navy", "arrow")] * 3, None, None, "a trio of navy arrows"),
        ([("teal", "bar"), ("lime", "hexagon")], None, "slate", "a teal bar with a lime hexagon over slate"),
        ([("brown", "diamond")], "southwest", None, "a brown diamond in the southwest"),
    ],
)
def test_the_second_world_has_words_of_its_own(
    things: list[tuple[str, str]], place: str | None, background: str | None, text: str
) -> None:
    caption = Caption(tuple(Thing(*thing) for thing in things), place, background, SECOND)
    assert caption.text == text
    assert parse(text, SECOND) == caption


@pytest.mark.parametrize(
    ("things", "place", "background", "text"),
    [
        ([("green", "circle")], None, None, "a green circle"),
        ([("orange", "star")], None, "black", "an orange star on a black background"),
        ([("blue", "star")] * 4, None, None, "four blue stars"),
        ([("red", "square"), ("purple", "triangle")], None, None, "a red square and a purple triangle"),
        ([("yellow", "star")], "left", "grey", "a yellow star on the left on a grey background"),
        ([("yellow", "star")], "bottom", None, "a yellow star at the bottom"),
    ],
)
def test_text_is_the_prompt_that_a_person_would_write(
    things: list[tuple[str, str]], place: str | None, background: str | None, text: str
) -> None:
    caption = Caption(tuple(Thing(*thing) for thing in things), place, background)
    assert caption.text == text
    assert parse(text) == caption


@pytest.mark.parametrize("text", ["A Green Circle", "  a green\tcircle ", "a green circle.", "a green circle . "])
def test_parse_forgives_case_spacing_and_a_full_stop(text: str) -> None:
    assert parse(text) == Caption((Thing("green", "circle"),))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a dog",
        "a pink circle",
        "green circle",
        "five blue stars",
        "four blue star",
        "two blue stars on the left",
        "a red square and a blue star on the left",
        "a red square and a blue star and a green circle",
        "a green circle on a red background",
        "a green circle, oil on canvas",
    ],
)
def test_parse_refuses_what_the_grammar_does_not_have(text: str) -> None:
    with pytest.raises(ValueError, match="cannot read the prompt"):
        parse(text)


# Colours x shapes = things; a composition is an ordered pair that shares neither colour nor shape.
@pytest.mark.parametrize(
    ("world", "kind", "plain", "held_out"),
    [
        (FIRST, "colour", 24, 5),
        (FIRST, "count", 3 * 24, 10),
        (FIRST, "composition", 24 * (5 * 3), 78),
        (FIRST, "location", 4 * 24, 25),
        (SECOND, "colour", 25, 2),
        (SECOND, "count", 2 * 25, 12),
        (SECOND, "composition", 25 * (4 * 4), 64),
        (SECOND, "location", 4 * 25, 20),
    ],
)
def test_kinds_have_the_known_size_and_split(world: World, kind: str, plain: int, held_out: int) -> None:
    """The split is pinned: the shipped weights were trained on it."""
    captions = all_captions(kind, backgrounds=False, world=world)
    assert len(captions) == plain
    assert len(all_captions(kind, world=world)) == 4 * plain
    assert all(caption.kind == kind for caption in all_captions(kind, world=world))
    assert all(caption.background is None for caption in captions)
    assert sum(caption.held_out for caption in captions) == held_out


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="texture"):
        all_captions("texture")


def test_the_split_ignores_background_and_order() -> None:
    """So no combination is on both sides."""
    sides = defaultdict(set)
    for caption in EVERY + OF_SECOND:
        combination = (frozenset(caption.things), len(caption.things), caption.place)
        sides[combination].add(caption.held_out)
    assert all(len(side) == 1 for side in sides.values())


@everywhere
@pytest.mark.parametrize("kind", KINDS)
def test_every_word_of_a_held_out_caption_occurs_in_a_training_caption(kind: str, world: World) -> None:
    words: dict[bool, set[str]] = {True: set(), False: set()}
    for caption in all_captions(kind, world=world):
        words[caption.held_out] |= set(caption.text.split())
    assert words[True]
    assert words[True] <= words[False]


@everywhere
@given(seed=st.integers(0, 2**32), held_out=st.booleans())
@settings(deadline=None)
def test_sample_caption_honours_held_out(world: World, seed: int, held_out: bool) -> None:
    assert sample_caption(random.Random(seed), held_out=held_out, world=world).held_out == held_out


@pytest.mark.parametrize("held_out", [False, True, None])
def test_sample_caption_draws_every_kind_and_half_the_backgrounds(held_out: bool | None) -> None:
    rng = random.Random(0)
    captions = [sample_caption(rng, held_out=held_out) for _ in range(2000)]
    assert {caption.kind for caption in captions} == set(KINDS)
    assert {caption.background for caption in captions} == {None, "white", "black", "grey"}
    assert sum(caption.background is None for caption in captions) / 2000 == pytest.approx(0.5, abs=0.05)
    if held_out is None:
        assert {caption.held_out for caption in captions} == {True, False}


def test_sample_caption_trains_by_default_and_repeats_for_a_seed() -> None:
    draws = [[sample_caption(random.Random(seed)) for seed in range(200)] for _ in range(2)]
    assert draws[0] == draws[1]
    assert not any(caption.held_out for caption in draws[0])


def world_of(file: Path) -> World:
    return SECOND if file.stem.startswith("second") else FIRST


@pytest.mark.parametrize("file", sorted(PROMPTS.glob("*.txt")), ids=lambda file: file.name)
def test_shipped_prompts_are_of_the_grammar_and_distinct(file: Path) -> None:
    captions = [parse(line, world_of(file)) for line in file.read_text().splitlines()]
    assert captions
    assert len(set(captions)) == len(captions)
    held_out = file.stem.endswith("held_out")
    assert [caption.text for caption in captions if caption.held_out != held_out] == []
