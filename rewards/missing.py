"""Pictures that are not there: a sampler masks those that are not finite, and no reward is asked about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rewards.reward import Scores


def score_those_there(
    score: Callable[[np.ndarray, Sequence[str]], Scores],
    names: tuple[str, ...],
    pixels: np.ndarray,
    prompts: Sequence[str],
) -> Scores:
    """Scores of pictures of which some are missing: NaN for these, features too.

    Args:
        score: Judges pictures that are there, at least one.
        names: Of its rewards.
        pixels: `(B, H, W, 3)` uint8, a masked array; a picture that is masked anywhere is missing.
        prompts: One an image.
    """
    there = ~np.ma.getmaskarray(pixels).any(axis=(1, 2, 3))
    values = np.full((len(names), len(pixels)), np.nan, np.float32)
    if not there.any():
        return Scores(names, values)
    found = score(np.ma.getdata(pixels)[there], [prompts[row] for row in np.flatnonzero(there).tolist()])
    values[:, there] = found.values
    features = None
    if found.features is not None:
        features = np.full((len(pixels), found.features.shape[1]), np.nan, np.float32)
        features[there] = found.features
    return replace(found, values=values, features=features)
