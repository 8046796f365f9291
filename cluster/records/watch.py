"""Looks at each iteration's figures, and says of each kind of trouble once what it means and what helps."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from cluster.records.warned import PEOPLE, Warned
from cluster.text import counted

_TIMES = 100.0  # the median so far: exploded
_LEAST = 3  # figures that make a median


class Watch:
    """The trouble that an iteration shows.

    Args:
        trained_on: Names of the rewards that have a weight.
    """

    def __init__(self, trained_on: Iterable[str]) -> None:
        self._trained_on = frozenset(trained_on)
        self._so_far: dict[str, list[float]] = defaultdict(list)
        self._said: set[str] = set()

    def look(
        self, iteration: int, metrics: Mapping[str, float], scores: Mapping[str, np.ndarray], groups: Sequence[int]
    ) -> list[str]:
        """One sentence for each trouble that was not there before.

        Args:
            iteration: It is.
            metrics: Of the iteration.
            scores: `(B,)` of each reward.
            groups: `(B,)`; samples of one prompt share theirs.
        """
        asked_in_vain = metrics.get("people/chosen") == 0  # of which `of_people` says why there is nothing to compare
        found = {} if asked_in_vain else dict(self._constant(scores, np.asarray(groups)))
        if metrics.get("pairs") == 0 and not asked_in_vain:
            found["pairs"] = (
                "No two samples of a prompt could be compared, so nothing was learned; lower objective.min_gap, raise "
                "prompts.samples, or take a reward that tells them apart."
            )
        found |= dict(self._exploding(metrics))
        new = [f"Iteration {iteration}: {sentence}" for key, sentence in found.items() if key not in self._said]
        self._said |= found.keys()
        return new

    def _constant(self, scores: Mapping[str, np.ndarray], groups: np.ndarray) -> Iterator[tuple[str, str]]:
        for name in sorted(self._trained_on):
            if is_constant(scores[name], groups):
                yield (
                    f"constant {name}",
                    f"The reward {name!r} gave the samples of each prompt the same score, which teaches nothing; does "
                    "it look at the images?",
                )

    def _exploding(self, metrics: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        for name, value in metrics.items():
            if name.split("/")[0] not in ("loss", "grad_norm", "kl"):
                continue
            before, size = self._so_far[name], abs(value)
            middle = float(np.median(before)) if len(before) >= _LEAST else math.inf
            if math.isfinite(size):
                before.append(size)
            help_ = "raise objective.kl_weight or lower learner.lr" if name.startswith("kl/") else "lower learner.lr"
            back = f"{help_}, and begin again from a checkpoint before this"
            if not math.isfinite(size):
                yield name, f"{name} is {value}; {back}."
            elif middle > 0 and size > _TIMES * middle:
                yield name, f"{name} is {value:.3g}, over {_TIMES:g} times its median so far ({middle:.3g}); {back}."


def of_people(iteration: int, metrics: Mapping[str, float]) -> Warned | None:
    """The warning of an iteration of which answers of people were discarded, or that has no preference to learn from.

    Args:
        iteration: It is.
        metrics: Of the iteration.
    """
    said = " ".join([*_discarded(metrics), *_undecided(metrics)])
    return Warned(iteration, PEOPLE, f"Iteration {iteration}: {said}") if said else None


def _discarded(metrics: Mapping[str, float]) -> Iterator[str]:
    if discarded := int(metrics.get("people/discarded", 0)):
        yield (
            f"what people said of {counted(discarded, 'pair')} is not trained on, because other pictures were drawn "
            "after a resumption; go on on the kind of machine, and with the settings, that they were drawn with."
        )


def _undecided(metrics: Mapping[str, float]) -> Iterator[str]:
    if metrics.get("people/chosen") != 0:
        return
    ties, bad = int(metrics["people/ties"]), int(metrics["people/both_bad"])
    rest = f"({counted(ties, 'tie')}, {counted(bad, 'pair')} with both bad)"
    none = "the update had no preference to learn from, and the iteration counts all the same"
    if not metrics["people/discarded"]:
        yield (
            f"people preferred no picture to the other one of its pair {rest}, so {none}; raise "
            "prompts.per_iteration, so that there is more to choose from, or look at what the model draws."
        )
    elif ties + bad:
        yield f"Of the rest they preferred none {rest}, so {none}."
    else:
        yield f"Nothing else was answered, so {none}."


def is_constant(scores: np.ndarray, groups: np.ndarray) -> bool:
    """Whether samples are compared at all, and none differs from another of its group by more than rounding."""
    compared = False
    for group in np.unique(groups):
        own = scores[(groups == group) & np.isfinite(scores)]
        if len(own) > 1:
            compared = True
            if np.ptp(own) > 1e-6 * np.abs(own).max():
                return False
    return compared
