"""Combines several rewards into one: running normalisation of each, then the weighted sum.

Normalising first makes a weight mean a share: without it the reward with the larger scale decides alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


class Combiner:
    """Weighted sum of normalised rewards.

    Args:
        weights: Weight of each reward by name; rewards of weight 0 are watched, not summed.
        normalise: Subtract each reward's running mean and divide by its running standard deviation. With a single
            reward this rescales but never reorders.
    """

    def __init__(self, weights: Mapping[str, float], normalise: bool = True) -> None:
        self._weights = {name: weight for name, weight in weights.items() if weight != 0}
        self._normalise = normalise
        self._moments = {name: (0, 0.0, 0.0) for name in self._weights}  # count, mean, sum of squared deviations

    def combine(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """The reward `(B,)` float32 of a batch; its scores enter the running statistics first.

        A sample that any summed reward could not judge (NaN or infinite) gets NaN: the learner drops it.

        Args:
            scores: `(B,)` of each reward by name.
        """
        total = np.zeros(len(next(iter(scores.values()))), np.float64)
        for name, weight in self._weights.items():
            values = np.where(np.isfinite(scores[name]), scores[name], np.nan).astype(np.float64)
            if self._normalise:
                self._observe(name, values[np.isfinite(values)])
                count, mean, deviations = self._moments[name]
                values = (values - mean) / (np.sqrt(deviations / max(count, 1)) + 1e-6)
            total += weight * values
        return total.astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """The running statistics, as plain numbers."""
        return {name: list(moments) for name, moments in self._moments.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the statistics of `state_dict` up again."""
        self._moments = {name: tuple(state[name]) for name in self._moments}

    def _observe(self, name: str, values: np.ndarray) -> None:
        # Chan's parallel update of Welford's moments.
        if not values.size:
            return
        count, mean, deviations = self._moments[name]
        total = count + values.size
        shift = values.mean() - mean
        self._moments[name] = (
            total,
            mean + shift * values.size / total,
            deviations + ((values - values.mean()) ** 2).sum() + shift**2 * count * values.size / total,
        )
