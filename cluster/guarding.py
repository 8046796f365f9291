"""The over-optimisation guard at work: after each evaluation it warns, keeps the best checkpoint, or ends the run."""

from __future__ import annotations

import logging

from cluster.config import Config
from cluster.crew.learner_group import LearnerGroup
from cluster.records import warned
from cluster.records.display import Display
from cluster.records.guard import Guard, evaluation
from cluster.records.reading import Records
from cluster.records.rundir import RunDirectory
from learner import checkpoint

log = logging.getLogger(__name__)


class Guarding:
    """The guard of a run under way; one that was resumed is shown the evaluations on record first.

    Args:
        config: Of the run.
        run: Its folder, rewound to where it goes on.
        display: Where its figures are shown.
        learner: Writes the best checkpoint.
        version: Where the run goes on.

    Raises:
        Hung: If the learner does not answer, as `look` does.
    """

    def __init__(
        self, config: Config, run: RunDirectory, display: Display, learner: LearnerGroup, version: int
    ) -> None:
        self._run, self._display, self._learner = run, display, learner
        self._guard = None if config.guard is None else Guard(config.guard, _weights(config))
        self.stopped: str | None = None  # the rule that has ended the run
        if self._guard is None:
            return
        for iteration in run.evaluations():
            self._judge(iteration)
        if self._guard.best != (kept := _kept(run)):  # it was lost on the way, or belongs to what was rewound
            if self._guard.best == version:
                self._keep()
            else:
                self._guard.hold_best(kept)

    def look(self, iteration: int) -> None:
        """Judge an evaluation that has just been recorded, and keep a checkpoint where it is the best so far."""
        if self._guard is not None and self._judge(iteration):
            self._keep()

    def _keep(self) -> None:
        self._learner.save(str(self._run.best.absolute()), 1)

    def _judge(self, iteration: int) -> bool:
        """Record what the guard says of an evaluation; returns whether it is the best so far."""
        assert self._guard is not None
        if (records := self._run.records_of(iteration)) is None:
            return False
        metrics, samples = records
        verdict = self._guard.look(evaluation(iteration, metrics, samples))
        used = {f"guard/{rule}": share for rule, share in verdict.used.items()}
        if any(metrics.get(name) != share for name, share in used.items()):
            self._run.add(iteration, used, {})
            self._display.guard(used)
        for warning in verdict.warnings:
            if warned.add(self._run.path, warning):
                log.warning("%s", warning.sentence)
        self.stopped = verdict.stop
        return verdict.best


def stopped_by(config: Config, run: Records, iteration: int) -> str | None:
    """The rule by which the guard ended a run whose newest checkpoint is of an iteration; `None` if none did."""
    if config.guard is None:
        return None
    guard, stop = Guard(config.guard, _weights(config)), None
    for number in run.evaluations():
        if number <= iteration and (records := run.records_of(number)) is not None:
            stop = guard.look(evaluation(number, *records)).stop
    return stop


def _weights(config: Config) -> dict[str, float]:
    weights = config.weights
    return {name: weights.get(name, 0.0) for name in config.scoring}


def _kept(run: Records) -> int | None:
    """The iteration of the best checkpoint on disk."""
    try:
        return checkpoint.verify(checkpoint.newest(run.best))
    except checkpoint.CheckpointError:
        return None
