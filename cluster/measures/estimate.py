"""A mean over prompts, with its standard error and its interval: of prompts drawn anew, not of pictures.

Pictures of one prompt are alike, so each prompt is one observation. What is inferred to are other prompts of the same
kind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

_CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A figure; NaN where there was nothing to take it from."""

    value: float
    error: float  # standard error; NaN of fewer than two prompts
    low: float  # ends of the 95 % interval
    high: float


def by_prompt(values: np.ndarray, groups: np.ndarray) -> Estimate:
    """The mean of the prompts' means.

    Args:
        values: `(B,)`; NaN takes no part, nor does a prompt that has nothing else.
        groups: `(B,)`, which prompt each belongs to.
    """
    known = np.isfinite(values)
    return over_prompts([float(values[known & (groups == group)].mean()) for group in np.unique(groups[known])])


def each_prompt(measure: Callable[[np.ndarray], float], rows: np.ndarray, groups: np.ndarray) -> Estimate:
    """The mean of what is measured of each prompt's rows.

    Args:
        measure: Of `(n, ...)` rows of one prompt; NaN where there are too few.
        rows: `(B, ...)`; one that is not finite takes no part.
        groups: `(B,)`.
    """
    known = np.isfinite(rows.reshape(len(rows), -1)).all(axis=1)
    return over_prompts([measure(rows[known & (groups == group)]) for group in np.unique(groups)])


def share_by_prompt(values: np.ndarray, groups: np.ndarray) -> Estimate:
    """The mean of the prompts' means of what lies between 0 and 1, where its interval stays too.

    Where all prompts agree, Student's interval would be a point. Then it is Wilson's (1927), of a coin thrown once a
    prompt, which of all that lies between 0 and 1 varies most.

    Args:
        values: `(B,)` in [0, 1]; NaN takes no part, nor does a prompt that has nothing else.
        groups: `(B,)`, which prompt each belongs to.
    """
    found = by_prompt(values, groups)
    low, high = found.low, found.high
    if found.error == 0:
        number, z = len(np.unique(groups[np.isfinite(values)])), float(norm.isf((1 - _CONFIDENCE) / 2))
        middle = (found.value + z**2 / (2 * number)) / (1 + z**2 / number)
        half = z / (1 + z**2 / number) * (found.value * (1 - found.value) / number + (z / (2 * number)) ** 2) ** 0.5
        low, high = middle - half, middle + half
    return found._replace(low=float(np.clip(low, 0, 1)), high=float(np.clip(high, 0, 1)))


def over_prompts(means: list[float]) -> Estimate:
    """The mean of one figure a prompt; those that are NaN take no part.

    The error is their deviation over the root of their number n, the interval Student's: the mean and, to both sides,
    that many errors as the t distribution of n - 1 degrees of freedom has. Of equal figures it has no width.
    """
    there = np.array([mean for mean in means if np.isfinite(mean)])
    if not len(there):
        return Estimate(*4 * (float("nan"),))
    value = float(there.mean())
    if len(there) < 2:
        return Estimate(value, *3 * (float("nan"),))
    if np.ptp(there) == 0:
        return Estimate(value, 0.0, value, value)
    error = float(there.std(ddof=1) / len(there) ** 0.5)
    half = error * float(t.isf((1 - _CONFIDENCE) / 2, len(there) - 1))
    return Estimate(value, error, value - half, value + half)


def wins(scores: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Of each picture whether it beats the base model's from the same noise: 1, 0, or a half where they are equal.

    Args:
        scores, base: `(B,)`, in one order.

    Returns:
        `(B,)` float64, NaN where either could not be judged.
    """
    return np.where(np.isfinite(scores) & np.isfinite(base), (np.sign(scores - base) + 1) / 2, np.nan)
