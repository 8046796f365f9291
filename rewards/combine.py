"""Combines several rewards into one: each is standardised, then they are summed by weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rewards.standardise import Standardise, groups, make_standardiser


@dataclass(frozen=True)
class Combined:
    """The reward of a batch, and what it is made of."""

    rewards: np.ndarray  # (B,) float32, NaN where a summed reward could not judge
    shares: dict[str, float]  # of each summed reward in the variance within prompts; they add up to 1


class Combiner:
    """sum_i w_i z_i, where z_i is reward i standardised.

    Args:
        weights: Weight of each reward by name; rewards of weight 0 are watched, not summed.
        standardise: What by: see `rewards.standardise`.
        buffer: Scores of each prompt that `prompt` remembers.
        min_count: How many of them it needs.
    """

    def __init__(
        self, weights: Mapping[str, float], standardise: Standardise = "run", buffer: int = 16, min_count: int = 16
    ) -> None:
        self._weights = {name: weight for name, weight in weights.items() if weight != 0}
        self._standardisers = {name: make_standardiser(standardise, buffer, min_count) for name in self._weights}

    def combine(self, scores: Mapping[str, np.ndarray], prompts: Sequence[str]) -> Combined:
        """The reward of a batch; its scores enter the statistics first.

        A sample that any summed reward could not judge (NaN or infinite) gets NaN: the learner drops it.

        Args:
            scores: `(B,)` of each reward by name.
            prompts: `(B,)`.

        Raises:
            ValueError: If scores are of another shape.
        """
        for name in self._weights:
            if (shape := np.shape(scores[name])) != (len(prompts),):
                raise ValueError(
                    f"The scores of the reward {name!r} have shape {shape}; {len(prompts)} prompts need shape "
                    f"({len(prompts)},)."
                )
        parts = {
            name: weight * self._standardisers[name].apply(np.asarray(scores[name], np.float64), prompts)
            for name, weight in self._weights.items()
        }
        total = np.sum(list(parts.values()), axis=0)
        return Combined(total.astype(np.float32), _shares(parts, total, prompts))

    def state_dict(self) -> dict[str, Any]:
        """The statistics of each reward, as plain numbers."""
        return {name: standardiser.state_dict() for name, standardiser in self._standardisers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the statistics of `state_dict` up again."""
        for name, standardiser in self._standardisers.items():
            standardiser.load_state_dict(state[name])


def _shares(parts: Mapping[str, np.ndarray], total: np.ndarray, prompts: Sequence[str]) -> dict[str, float]:
    # Covariance with the sum over the variance of the sum, both around the means of the prompts: what tells samples of
    # one prompt apart is all that an objective learns from. NaN if nothing does.
    kept = np.isfinite(total)
    centred = {name: np.array(part) for name, part in parts.items()}
    whole = np.array(total)
    for group in groups(prompts).values():
        judged = [i for i in group if kept[i]]
        for values in (whole, *centred.values()):
            if judged:
                values[judged] -= values[judged].mean()
    variance = float((whole[kept] ** 2).sum())
    if variance <= 1e-18 * float((total[kept] ** 2).sum()):  # nothing but rounding
        return dict.fromkeys(parts, float("nan"))
    return {name: float((values[kept] * whole[kept]).sum()) / variance for name, values in centred.items()}
