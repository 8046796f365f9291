"""The over-optimisation guard: holds each evaluation to rules, and knows the best one.

A policy that exploits its reward gives itself away in what it is not trained on: rewards that are only watched, the
diversity within a prompt, the distance from the pretrained model (Gao et al. 2022, arXiv 2210.10760).
Evaluations ask for the same prompts with the same noise every time, so two of them are compared picture by picture: the
standard error is that of the mean difference, which is below that of either mean. It is of these prompts, as they are.

What the guard says is a function of the evaluations on record alone: after a resume it is shown them again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from cluster.config.guard import TRAINED, WATCHED, GuardConfig, RuleConfig
from cluster.records.warned import Warned

_SPLITS = {"train": "the training prompts", "held_out": "the held-out prompts"}
_LEAST = 1e-9  # a deviation; where all scores are equal it is not 0 but for rounding
_LEAST_ERROR = 0.01  # a standard error, in deviations before training: a fall that all pictures share may be tiny
BEST = "guard.best"  # stands for a rule in the warning of how the best evaluation is chosen
_HELP = {
    "errors": "the reward that is trained on may be exploited",
    "falls": "the reward that is trained on may be exploited",
    "share": "the policy may be collapsing",
    "above": "the policy may have gone too far",
}


@dataclass(frozen=True)
class Evaluation:
    """What is on record of an evaluation; figures and rewards by `<split>/<name>`."""

    iteration: int
    figures: Mapping[str, float]
    scores: Mapping[str, np.ndarray]  # (B,) of the images by prompt and sample; NaN where one was not judged


@dataclass(frozen=True)
class Verdict:
    """What the guard says of an evaluation."""

    used: Mapping[str, float] = field(default_factory=dict)  # of what each rule allows; broken above 1
    warnings: Sequence[Warned] = ()  # of what was not broken before, and once of how the best is chosen
    best: bool = False  # whether it is the best so far
    stop: str | None = None  # the rule that ends the run


def evaluation(iteration: int, metrics: Mapping[str, float], samples: pa.Table) -> Evaluation:
    """An evaluation out of an iteration's records.

    Args:
        iteration: It is.
        metrics: Of the iteration, of which `eval/<split>/<figure>` count.
        samples: Its rows of `samples.parquet`.
    """
    figures = {name.removeprefix("eval/"): value for name, value in metrics.items() if name.startswith("eval/")}
    samples = samples.sort_by([("prompt_index", "ascending"), ("sample_index", "ascending")])
    splits = np.array(samples["split"].to_pylist())
    scores = {}
    for name in figures:
        split, reward = name.split("/", 1)
        if reward in samples.column_names:
            scores[name] = samples[reward].to_numpy()[splits == split].astype(np.float64)
    return Evaluation(iteration, figures, scores)


def _scored(found: Evaluation, rewards: Sequence[str]) -> bool:
    """Whether any of some rewards has a score in an evaluation."""
    figures = (f"{split}/{name}" for split in _SPLITS for name in rewards)
    return any(math.isfinite(found.figures.get(figure, math.nan)) for figure in figures)


class Guard:
    """Sees the evaluations of a run in order.

    Args:
        config: Its rules.
        weights: Of each reward that gives scores.
    """

    def __init__(self, config: GuardConfig, weights: Mapping[str, float]) -> None:
        self._rules = config.in_force
        self._names = {
            WATCHED: [name for name, weight in weights.items() if not weight],
            TRAINED: [name for name, weight in weights.items() if weight],
        }
        self._best = config.best
        self._chosen: Sequence[str] = ()  # the rewards that the best one is chosen by, once the first one is known
        self._first: Evaluation | None = None
        self._highest: dict[str, Evaluation] = {}  # the best evaluation so far of each figure
        self._said: set[tuple[str, str]] = set()
        self._merits: dict[int, float] = {}  # of the evaluations so far; -inf of one that breaks a rule
        self._merit = -math.inf
        self.best: int | None = None  # iteration of the best evaluation so far

    def hold_best(self, kept: int | None) -> None:
        """Take the evaluation whose checkpoint is there for the best so far, since that of a better one was lost.

        Args:
            kept: Its iteration; where it has not been looked at, the next one that breaks no rule is the best.
        """
        self.best = kept if kept in self._merits else None
        self._merit = -math.inf if self.best is None else self._merits[self.best]

    def look(self, found: Evaluation) -> Verdict:
        """Hold an evaluation to the rules: one warning for each rule and figure that is broken for the first time.

        The first one also decides what the best is chosen by, and has a warning where that is not what was asked for.
        """
        warnings: list[Warned] = []
        if self._first is None:
            self._first, self._chosen = found, self._choose(found)
            if sentence := self._of_choice(found):
                warnings.append(Warned(found.iteration, BEST, sentence))
        used: dict[str, float] = {}
        stop: str | None = None
        for name, rule in self._rules.items():
            for figure in self._figures(rule, found):
                spent = {limit: self._used(limit, bound, figure, found) for limit, bound in rule.limits.items()}
                if not all(map(math.isfinite, spent.values())):
                    continue
                share = min(spent.values())
                used[name] = max(share, used.get(name, 0.0))
                if share > 1:
                    stop = stop or (name if rule.stop else None)
                    if (name, figure) not in self._said:
                        self._said.add((name, figure))
                        sentence = self._sentence(name, rule, figure, found)
                        warnings.append(Warned(found.iteration, name, sentence, figure))
        for figure, value in found.figures.items():
            before = self._highest.get(figure)
            if math.isfinite(value) and (before is None or value > before.figures[figure]):
                self._highest[figure] = found
        merit = self._merit_of(found) if all(share <= 1 for share in used.values()) else -math.inf
        self._merits[found.iteration] = merit
        best = merit > self._merit
        if best:
            self._merit, self.best = merit, found.iteration
        return Verdict(used, warnings, best, stop)

    def _choose(self, first: Evaluation) -> Sequence[str]:
        """The rewards that the best evaluation is chosen by: the trained ones where no watched one has a score here."""
        if self._best is None:
            return ()
        best = TRAINED if self._best == WATCHED and not _scored(first, self._names[WATCHED]) else self._best
        return self._names.get(best, [best])

    def _of_choice(self, first: Evaluation) -> str | None:
        """What there is to say of how the best evaluation is chosen."""
        help_ = "name another figure in guard.best, or begin again when they answer."
        if self._chosen and not _scored(first, self._chosen):
            return (
                f"Iteration {first.iteration}: nothing was measured of {', '.join(self._chosen)}, by which the best "
                f"checkpoint is chosen, so none is kept; {help_}"
            )
        if self._best == WATCHED and self._names[WATCHED] and self._chosen is self._names[TRAINED]:
            return (
                f"Iteration {first.iteration}: no watched reward gave a score, so the best checkpoint is that of the "
                f"highest trained reward; {help_}"
            )
        return None

    def _figures(self, rule: RuleConfig, found: Evaluation) -> Iterator[str]:
        names = self._names.get(rule.figure, [rule.figure])
        for figure in found.figures:
            split, name = figure.split("/", 1)
            if name in names and rule.split in (None, split):
                yield figure

    def _used(self, limit: str, bound: float, figure: str, found: Evaluation) -> float:
        """How much of a limit an evaluation uses, NaN where that was not measured; it is broken above 1."""
        value, best = found.figures[figure], self._highest.get(figure, found)
        if limit == "above":
            return value / bound
        if limit == "share":
            assert self._first is not None
            before = self._first.figures.get(figure, math.nan)
            return (1 - value / before) / (1 - bound) if before > 0 else math.nan
        if limit == "falls":
            return (best.figures[figure] - value) / bound
        least = _LEAST_ERROR * self._deviation(figure)
        return errors_below(found.scores.get(figure), best.scores.get(figure), least) / bound

    def _sentence(self, name: str, rule: RuleConfig, figure: str, found: Evaluation) -> str:
        split, what = figure.split("/", 1)
        best, value = self._highest.get(figure, found), found.figures[figure]
        said = {
            "errors": lambda bound: (
                f"{bound * self._used('errors', bound, figure, found):.1f} standard errors below "
                f"its best so far ({best.figures[figure]:.3f} at iteration {best.iteration})"
            ),
            "falls": lambda bound: (
                f"{best.figures[figure] - value:.3f} below its best so far (at iteration {best.iteration})"
            ),
            "share": lambda bound: f"less than {bound:.0%} of what it was before training",
            "above": lambda bound: f"above {bound:g}",
        }
        limits = " and ".join(said[limit](bound) for limit, bound in rule.limits.items())
        kept = "" if self.best is None else f", and the best checkpoint so far is that of iteration {self.best}"
        return (
            f"Iteration {found.iteration}: {what} on {_SPLITS.get(split, split)} is {value:.3f}, {limits} "
            f"(guard.rules.{name}); {_HELP[next(iter(rule.limits))]}{kept}."
        )

    def _merit_of(self, found: Evaluation) -> float:
        """How good an evaluation is: the mean over splits and chosen rewards, in deviations from the first one's."""
        assert self._first is not None
        merits = []
        for figure, before in self._first.figures.items():
            split, name = figure.split("/", 1)
            if split in _SPLITS and name in self._chosen:
                merits.append((found.figures.get(figure, math.nan) - before) / self._deviation(figure))
        finite = [merit for merit in merits if math.isfinite(merit)]
        return float(np.mean(finite)) if finite else -math.inf

    def _deviation(self, figure: str) -> float:
        """Standard deviation of a reward's scores before training, at least `_LEAST`."""
        assert self._first is not None
        scores = self._first.scores.get(figure, np.empty(0))
        finite = scores[np.isfinite(scores)]
        return max(float(finite.std()), _LEAST) if finite.size else _LEAST


def errors_below(now: np.ndarray | None, before: np.ndarray | None, least: float = _LEAST) -> float:
    """How far the mean of `now` lies below that of `before`, in standard errors of the mean difference.

    Args:
        now: `(B,)`, of the same prompts with the same noise as `before`; NaN takes no part.
        before: `(B,)`.
        least: A standard error that is smaller counts as this, in the scores' unit.

    Returns:
        NaN where there are not two images to compare.
    """
    if now is None or before is None or now.shape != before.shape:
        return math.nan
    fallen = before - now
    fallen = fallen[np.isfinite(fallen)]
    if fallen.size < 2:
        return math.nan
    return float(fallen.mean() / max(fallen.std(ddof=1) / math.sqrt(fallen.size), least))
