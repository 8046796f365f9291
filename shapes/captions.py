"""The prompt grammar of the embedded world and its split into train and held-out combinations.

Four kinds of prompt, after those that DPOK (Fan et al. 2023, section 5.1) trains on:

    colour       "a green circle"
    count        "four blue stars"
    composition  "a red square and a purple triangle"
    location     "a yellow star on the left"

each optionally followed by "on a black background". The split holds out *combinations*: every word of a held-out
caption occurs in training captions, its combination never does (whatever the background, and for two things in either
order).
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import dataclass
from itertools import combinations, product

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple")
SHAPES = ("circle", "square", "triangle", "star")
BACKGROUNDS = ("white", "black", "grey")
NUMBERS = {2: "two", 3: "three", 4: "four"}
PLACES = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}
KINDS = ("colour", "count", "composition", "location")

# One combination in five is held out.
_HELD_OUT_MODULUS = 5


@dataclass(frozen=True)
class Thing:
    """One kind of object: a colour of `COLOURS` and a shape of `SHAPES`."""

    colour: str
    shape: str


@dataclass(frozen=True)
class Caption:
    """What a prompt asks for.

    Args:
        things: The objects, one entry an object ("two red stars" has two equal entries).
        place: A key of `PLACES`, for a single thing, or `None`.
        background: One of `BACKGROUNDS`, or `None` where the prompt leaves it open.
    """

    things: tuple[Thing, ...]
    place: str | None = None
    background: str | None = None

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
            words = f"{NUMBERS[len(self.things)]} {self.things[0].colour} {self.things[0].shape}s"
        else:
            words = " and ".join(f"{_article(t.colour)} {t.colour} {t.shape}" for t in self.things)
        if self.place:
            words += f" {PLACES[self.place]}"
        if self.background:
            words += f" on a {self.background} background"
        return words

    @property
    def held_out(self) -> bool:
        """Whether this combination is kept from every training set."""
        key = [self.place or "", *sorted(f"{t.colour} {t.shape}" for t in self.things)]
        return zlib.crc32("|".join(key).encode()) % _HELD_OUT_MODULUS == 0


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


_THING = rf"(?:an?) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_PATTERN = re.compile(
    rf"(?:(?P<number>{'|'.join(NUMBERS.values())}) (?P<colour>{'|'.join(COLOURS)}) (?P<shapes>{'|'.join(SHAPES)})s"
    rf"|{_THING}(?: and {_THING}| (?P<place>{'|'.join(PLACES.values())}))?)"
    rf"(?: on an? (?P<background>{'|'.join(BACKGROUNDS)}) background)?"
)


def parse(text: str) -> Caption:
    """Read a prompt back into a `Caption`.

    Raises:
        ValueError: If the prompt is not of the grammar.
    """
    match = _PATTERN.fullmatch(" ".join(text.lower().split()).rstrip(". "))
    if match is None:
        raise ValueError(
            f"The shapes world cannot read the prompt {text!r}; it knows prompts such as 'a green circle', "
            "'four blue stars', 'a red square and a purple triangle' and 'a yellow star on the left'."
        )
    if match["number"]:
        count = next(n for n, word in NUMBERS.items() if word == match["number"])
        things = (Thing(match["colour"], match["shapes"]),) * count
    else:
        words = [g for g in match.groups()[3:7] if g]
        things = tuple(Thing(colour, shape) for colour, shape in zip(words[::2], words[1::2], strict=True))
    place = next((key for key, words in PLACES.items() if words == match["place"]), None)
    return Caption(things, place, match["background"])


def all_captions(kind: str, backgrounds: bool = True) -> list[Caption]:
    """Every caption of one kind, in a fixed order; without `backgrounds` only those that leave it open."""
    things = [Thing(colour, shape) for colour, shape in product(COLOURS, SHAPES)]
    plain: list[tuple[tuple[Thing, ...], str | None]]
    if kind == "colour":
        plain = [((t,), None) for t in things]
    elif kind == "count":
        plain = [((t,) * n, None) for n in NUMBERS for t in things]
    elif kind == "composition":
        # Two things differ in both colour and shape, so that no attribute can be right by accident.
        plain = [
            (pair, None)
            for a, b in combinations(things, 2)
            if a.colour != b.colour and a.shape != b.shape
            for pair in ((a, b), (b, a))
        ]
    elif kind == "location":
        plain = [((t,), place) for place in PLACES for t in things]
    else:
        raise ValueError(f"There is no kind of caption {kind!r}; the kinds are {', '.join(KINDS)}.")
    options = (None, *BACKGROUNDS) if backgrounds else (None,)
    return [Caption(t, place, background) for t, place in plain for background in options]


def sample_caption(rng: random.Random, *, held_out: bool | None = False) -> Caption:
    """Draw a caption: a kind, then a combination, then (half of the time) a background.

    Args:
        rng: The source of randomness.
        held_out: Draw from the held-out combinations, from the training ones, or (`None`) from all.
    """
    # Harder kinds have more combinations and get more of the draws.
    kind = rng.choices(KINDS, weights=(0.15, 0.30, 0.35, 0.20))[0]
    while True:
        caption = rng.choice(_PLAIN[kind])
        if held_out is None or caption.held_out == held_out:
            background = rng.choice(BACKGROUNDS) if rng.random() < 0.5 else None
            return Caption(caption.things, caption.place, background)


_PLAIN = {kind: all_captions(kind, backgrounds=False) for kind in KINDS}
