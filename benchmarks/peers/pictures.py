"""Pairs of pictures to learn a preference from: a prompt's own, and the loser one of another prompt."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
from PIL import Image

from shapes.captions import parse
from shapes.render import render


def pairs(prompts: Sequence[str], seed: int, size: int) -> np.ndarray:
    """Winners and losers `(2, n, size, size, 3)` uint8 of n prompts of the first world, the same for every side."""
    rng = random.Random(seed)
    others = [next((other for other in prompts[n:] if other != text), prompts[0]) for n, text in enumerate(prompts)]
    return np.stack([[_drawn(text, rng, size) for text in texts] for texts in (prompts, others)])


def _drawn(prompt: str, rng: random.Random, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(render(parse(prompt), rng)).resize((size, size)))
