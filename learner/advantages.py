"""From the raw scores of several rewards to the one number that an objective learns from.

    A = sum_i w_i z_i        z_i: reward i standardised, see `learner.standardise`

With `standardise="group"` and `whiten` it is GDPO's (Liu et al., arXiv 2601.05242): each reward by its group, the sum
by the batch, so that its scale depends neither on how many rewards there are nor on how many differ within a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from learner.standardise import Standardise, make_standardiser, rows_of, standardised


class Advantages:
    """Makes a batch's advantages; keeps statistics over the batches.

    Args:
        weights: Weight of each reward by name; rewards of weight 0 are watched, not summed.
        standardise: What each is standardised by.
        buffer: Scores of each prompt that `prompt` remembers.
        min_count: How many of them it needs.
        whiten: Whether the sum is standardised by the batch.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        standardise: Standardise = "run",
        buffer: int = 16,
        min_count: int = 16,
        whiten: bool = False,
    ) -> None:
        self._weights = {name: weight for name, weight in weights.items() if weight != 0}
        self._standardisers = {name: make_standardiser(standardise, buffer, min_count) for name in self._weights}
        self._whiten = whiten

    def of(
        self, scores: Mapping[str, np.ndarray], groups: np.ndarray, prompts: Sequence[str]
    ) -> tuple[np.ndarray, dict[str, float]]:
        """The advantages of a batch; its scores enter the statistics first, but for those of dropped samples.

        Args:
            scores: `(B,)` of each reward by name, NaN where a sample could not be judged.
            groups: `(B,)` int64; samples that are compared share theirs.
            prompts: `(B,)`.

        Returns:
            `(B,)` float32, NaN where any summed reward could not judge. And metrics: `reward/mean` and `reward/std` of
            those that are numbers, and `share/<reward>`, the share of each summed reward in the variance within groups;
            the shares add up to 1.

        Raises:
            ValueError: If scores are of another shape.
        """
        for name in self._weights:
            if (shape := np.shape(scores[name])) != (len(prompts),):
                raise ValueError(
                    f"The scores of the reward {name!r} have shape {shape}; {len(prompts)} samples need shape "
                    f"({len(prompts)},)."
                )
        table = np.array([scores[name] for name in self._weights], np.float64)
        # What one reward could not judge is dropped, so nobody is to be measured by what the others said of it.
        table[:, ~np.isfinite(table).all(axis=0)] = np.nan
        parts = {
            name: weight * self._standardisers[name].apply(of, groups, prompts)
            for (name, weight), of in zip(self._weights.items(), table, strict=True)
        }
        total = np.sum(list(parts.values()), axis=0)
        shares = {f"share/{name}": share for name, share in _shares(parts, total, groups).items()}
        advantages = (standardised(total, total) if self._whiten else total).astype(np.float32)
        kept = advantages[np.isfinite(advantages)]
        mean, deviation = (float(kept.mean()), float(kept.std())) if kept.size else (float("nan"), float("nan"))
        return advantages, {"reward/mean": mean, "reward/std": deviation, **shares}

    def weighted(self, scores: Mapping[str, np.ndarray]) -> np.ndarray:
        """sum_i w_i r_i, float32, of scores of any shape: each on its own scale, as differences of preferences are."""
        total = np.sum(
            [weight * np.asarray(scores[name], np.float64) for name, weight in self._weights.items()], axis=0
        )
        return total.astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        """The statistics of each reward, as plain numbers."""
        return {name: standardiser.state_dict() for name, standardiser in self._standardisers.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the statistics of `state_dict` up again."""
        for name, standardiser in self._standardisers.items():
            standardiser.load_state_dict(state[name])


def _shares(parts: Mapping[str, np.ndarray], total: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    # Covariance with the sum over the variance of the sum, both around the means of the groups: what tells samples of
    # one group apart is all that an objective learns from. NaN if nothing does.
    kept = np.isfinite(total)
    centred = {name: np.array(part) for name, part in parts.items()}
    whole = np.array(total)
    for members in rows_of(groups):
        judged = members[kept[members]]
        for values in (whole, *centred.values()):
            if judged.size:
                values[judged] -= values[judged].mean()
    variance = float((whole[kept] ** 2).sum())
    if variance <= 1e-18 * float((total[kept] ** 2).sum()):  # nothing but rounding
        return dict.fromkeys(parts, float("nan"))
    return {name: float((values[kept] * whole[kept]).sum()) / variance for name, values in centred.items()}
