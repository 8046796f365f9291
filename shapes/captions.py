"""The prompt grammar of the embedded worlds and its split into train and held-out combinations.

Four kinds of prompt, after those that DPOK (Fan et al. 2023, section 5.1) trains on:

    colour       "a green circle"
    count        "four blue stars"
    composition  "a red square and a purple triangle"
    location     "a yellow star on the left"

each optionally followed by "on a black background"; the words are the first world's. The split holds out
*combinations*: every word of a held-out caption occurs in training captions, its combination never does (whatever the
background, and for two things in either order).
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, product

from shapes.worlds import FIRST, World

KINDS = ("colour", "count", "composition", "location")

# One combination in five is held out.
_HELD_OUT_MODULUS = 5


@dataclass(frozen=True)
class Thing:
    """One kind of object: a colour and a shape of its world."""

    colour: str
    shape: str


@dataclass(frozen=True)
class Caption:
    """What a prompt asks for.

    Args:
        things: The objects, one entry an object ("two red stars" has two equal entries).
        place: The name of a place of the world, for a single thing, or `None`.
        background: One of the world's, or `None` where the prompt leaves it open.
        world: Whose words it is written in.
    """

    things: tuple[Thing, ...]
    place: str | None = None
    background: str | None = None
    world: World = field(default=FIRST, repr=False)

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if self.place:
            return "location"
        if len(self.things) == 1:
            return "colour"
        return "count" if len(set(self.things)) == 1 else "composition"

    @property
    def text(self) -> str:
        """The prompt, in the one spelling that the grammar has for it."""
        if self.kind == "count":
            words = f"{self.world.numbers[len(self.things)]} {self.things[0].colour} {self.things[0].shape}s"
        else:
            words = f" {self.world.joint} ".join(f"{_article(t.colour)} {t.colour} {t.shape}" for t in self.things)
        if self.place:
            words += f" {self.world.places[self.place].words}"
        if self.background:
            words += f" {self.world.ground.format(self.background)}"
        return words

    @property
    def held_out(self) -> bool:
        """Whether this combination is kept from every training set."""
        key = [self.place or "", *sorted(f"{t.colour} {t.shape}" for t in self.things)]
        return zlib.crc32("|".join(key).encode()) % _HELD_OUT_MODULUS == 0


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


@cache
def _pattern(world: World) -> re.Pattern[str]:
    colours, shapes, grounds = ("|".join(names) for names in (world.colours, world.shapes, world.backgrounds))
    places = "|".join(place.words for place in world.places.values())
    thing = rf"(?:an?) ({colours}) ({shapes})"
    ground = world.ground.replace(" a ", " an? ").format(f"(?P<background>{grounds})")
    return re.compile(
        rf"(?:(?P<number>{'|'.join(world.numbers.values())}) (?P<colour>{colours}) (?P<shapes>{shapes})s"
        rf"|{thing}(?: {world.joint} {thing}| (?P<place>{places}))?)(?: {ground})?"
    )


def parse(text: str, world: World = FIRST) -> Caption:
    """Read a prompt of a world back into a `Caption`.

    Raises:
        ValueError: If the prompt is not of the grammar.
    """
    match = _pattern(world).fullmatch(" ".join(text.lower().split()).rstrip(". "))
    if match is None:
        examples = ", ".join(repr(all_captions(kind, backgrounds=False, world=world)[-1].text) for kind in KINDS)
        raise ValueError(
            f"The {world.name} shapes world cannot read the prompt {text!r}; it knows prompts such as {examples}."
        )
    if match["number"]:
        count = next(n for n, word in world.numbers.items() if word == match["number"])
        things = (Thing(match["colour"], match["shapes"]),) * count
    else:
        words = [g for g in match.groups()[3:7] if g]
        things = tuple(Thing(colour, shape) for colour, shape in zip(words[::2], words[1::2], strict=True))
    place = next((name for name, place in world.places.items() if place.words == match["place"]), None)
    return Caption(things, place, match["background"], world)


def all_captions(kind: str, backgrounds: bool = True, world: World = FIRST) -> list[Caption]:
    """Every caption of one kind, in a fixed order; without `backgrounds` only those that leave it open."""
    things = [Thing(colour, shape) for colour, shape in product(world.colours, world.shapes)]
    plain: list[tuple[tuple[Thing, ...], str | None]]
    if kind == "colour":
        plain = [((t,), None) for t in things]
    elif kind == "count":
        plain = [((t,) * n, None) for n in world.numbers for t in things]
    elif kind == "composition":
        # Two things differ in both colour and shape, so that no attribute can be right by accident.
        plain = [
            (pair, None)
            for a, b in combinations(things, 2)
            if a.colour != b.colour and a.shape != b.shape
            for pair in ((a, b), (b, a))
        ]
    elif kind == "location":
        plain = [((t,), place) for place in world.places for t in things]
    else:
        raise ValueError(f"There is no kind of caption {kind!r}; the kinds are {', '.join(KINDS)}.")
    options = (None, *world.backgrounds) if backgrounds else (None,)
    return [Caption(t, place, background, world) for t, place in plain for background in options]


def sample_caption(rng: random.Random, *, held_out: bool | None = False, world: World = FIRST) -> Caption:
    """Draw a caption: a kind, then a combination, then (half of the time) a background.

    Args:
        rng: The source of randomness.
        held_out: Draw from the held-out combinations, from the training ones, or (`None`) from all.
        world: Whose captions they are.
    """
    # Harder kinds have more combinations and get more of the draws.
    kind = rng.choices(KINDS, weights=(0.15, 0.30, 0.35, 0.20))[0]
    while True:
        caption = rng.choice(_plain(kind, world))
        if held_out is None or caption.held_out == held_out:
            background = rng.choice(list(world.backgrounds)) if rng.random() < 0.5 else None
            return replace(caption, background=background)


@cache
def _plain(kind: str, world: World) -> list[Caption]:
    return all_captions(kind, backgrounds=False, world=world)
