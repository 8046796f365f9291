"""Standardising a reward before it is weighted: subtract a mean, divide by a deviation; the choice is of what.

Without it the reward with the larger scale decides alone; with it a weight means a share. Every deviation is the
population's, plus 1e-6. Scores that are not finite come out as NaN and stay out of every statistic.

What is added is DDPO's. Flow-GRPO and those who took its code over add 1e-4, as does GDPO's, and DanceGRPO 1e-8 (there
and in GDPO the deviation is the sample's): to scores that differ by 1e-2 and more it makes no difference of 1 %, so one
number does for all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

_ADDED = 1e-6  # to every deviation
Standardise = Literal["run", "group", "group_mean", "prompt", "batch", "nothing"]


class Standardiser(Protocol):
    """What one reward is standardised by; it may learn from every batch."""

    def apply(self, scores: np.ndarray, groups: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        """The batch's scores standardised; they enter the statistics first.

        Args:
            scores: `(B,)` float64.
            groups: `(B,)` int64; samples that are compared share theirs.
            prompts: `(B,)`; two groups may have the same.
        """
        ...

    def state_dict(self) -> Any:
        """The statistics, as plain numbers."""
        ...

    def load_state_dict(self, state: Any) -> None:
        """Take the statistics of `state_dict` up again."""
        ...


class ByNothing:
    """Leaves the scores on their own scale."""

    def apply(self, scores: np.ndarray, groups: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        return np.where(np.isfinite(scores), scores, np.nan)

    def state_dict(self) -> Any:
        return None

    def load_state_dict(self, state: Any) -> None:
        pass


class ByRun:
    """By the moments of all scores since the run began; a single reward is rescaled but never reordered."""

    def __init__(self) -> None:
        self._moments = (0, 0.0, 0.0)  # count, mean, sum of squared deviations

    def apply(self, scores: np.ndarray, groups: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        values = np.where(np.isfinite(scores), scores, np.nan)
        self._observe(values[np.isfinite(values)])
        count, mean, deviations = self._moments
        return (values - mean) / (np.sqrt(deviations / max(count, 1)) + _ADDED)

    def state_dict(self) -> Any:
        return list(self._moments)

    def load_state_dict(self, state: Any) -> None:
        count, mean, deviations = state
        self._moments = (count, mean, deviations)

    def _observe(self, values: np.ndarray) -> None:
        # Chan's parallel update of Welford's moments.
        if not values.size:
            return
        count, mean, deviations = self._moments
        total = count + values.size
        shift = float(values.mean()) - mean
        self._moments = (
            total,
            mean + shift * values.size / total,
            deviations + float(((values - values.mean()) ** 2).sum()) + shift**2 * count * values.size / total,
        )


class ByBatch(ByNothing):
    """By all samples of the batch."""

    def apply(self, scores: np.ndarray, groups: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        return standardised(scores, scores)


class ByGroup(ByNothing):
    """By the samples of the same group: the advantages of GRPO (arXiv 2402.03300, section 4.1.2)."""

    def apply(self, scores: np.ndarray, groups: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        result = np.full(len(scores), np.nan)
        for members in rows_of(groups):
            result[members] = standardised(scores[members], scores[members])
        return result


class ByGroupMean(ByNothing):
    """By the mean of the group and the deviation of the batch, so that a group of near equals stays small.

    Flow-GRPO's advantages (arXiv 2505.05470, its `global_std`), taken over by DiffusionNFT, AWM and DGPO.
    """

    def apply(self, scores: np.ndarray, groups: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        known = scores[np.isfinite(scores)]
        spread = known.std() if known.size else 0.0
        result = np.full(len(scores), np.nan)
        for members in rows_of(groups):
            own = scores[members]
            judged = own[np.isfinite(own)]
            if judged.size:
                result[members] = (np.where(np.isfinite(own), own, np.nan) - judged.mean()) / (spread + _ADDED)
        return result


class ByPrompt:
    """By the last scores of the same prompt, over the batches: DDPO's tracker (arXiv 2305.13301, appendix D).

    A prompt with fewer than `min_count` scores is standardised by the whole batch.

    Args:
        buffer: Scores of each prompt that are remembered.
        min_count: How many are needed.
    """

    def __init__(self, buffer: int, min_count: int) -> None:
        self._buffer, self._min_count = buffer, min_count
        self._history: dict[str, deque[float]] = {}

    def apply(self, scores: np.ndarray, groups: np.ndarray, prompts: Sequence[str]) -> np.ndarray:
        result, texts = np.full(len(scores), np.nan), np.array(prompts, object)
        for prompt in dict.fromkeys(prompts):
            members = np.flatnonzero(texts == prompt)
            history = self._history.setdefault(prompt, deque(maxlen=self._buffer))
            history.extend(float(score) for score in scores[members] if np.isfinite(score))
            known = len(history) >= self._min_count
            result[members] = standardised(scores[members], np.array(history) if known else scores)
        return result

    def state_dict(self) -> Any:
        return {prompt: list(history) for prompt, history in self._history.items()}

    def load_state_dict(self, state: Mapping[str, Sequence[float]]) -> None:
        self._history = {prompt: deque(history, maxlen=self._buffer) for prompt, history in state.items()}


def make_standardiser(by: Standardise, buffer: int, min_count: int) -> Standardiser:
    """The standardiser of a name; `buffer` and `min_count` are those of `prompt`."""
    if by == "prompt":
        return ByPrompt(buffer, min_count)
    simple: dict[str, Callable[[], Standardiser]] = {
        "run": ByRun,
        "group": ByGroup,
        "group_mean": ByGroupMean,
        "batch": ByBatch,
        "nothing": ByNothing,
    }
    return simple[by]()


def rows_of(groups: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of each group in a batch."""
    for group in np.unique(groups):
        yield np.flatnonzero(groups == group)


def standardised(scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Scores by mean and deviation of those of `reference` that are finite; NaN where there is none."""
    known = reference[np.isfinite(reference)]
    if not known.size:
        return np.full(len(scores), np.nan)
    return (np.where(np.isfinite(scores), scores, np.nan) - known.mean()) / (known.std() + _ADDED)
