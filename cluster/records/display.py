"""What a person sees while a run goes on: what is done of a phase and of the run, with the time left, and its figures.

Texts that others wrote (names of rewards, of splits) are shown and not obeyed: no markup, no escape sequences.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from cluster.counting import SPEAKS
from cluster.records.telemetry import Phase, Telemetry
from cluster.records.timeline import Phases
from cluster.text import counted, figure, shown


class Display:
    """Progress of a run: bars on a terminal; elsewhere lines alone.

    What is left of a phase follows from the images that are there, of the learner's work from how long its last batch
    took, and of the run from the mean of this process's iterations. Where nothing is known, nothing is said.

    Args:
        console: Where to write.
        iterations: Of the whole run.
        telemetry: Where the same goes for Ray's dashboard.

    Attributes:
        phases: When each was.
    """

    def __init__(self, console: Console, iterations: int, telemetry: Telemetry | None = None) -> None:
        self._console, self._iterations, self._telemetry = console, iterations, telemetry
        self._progress = Progress(
            TextColumn("{task.description:10s}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            _Left(),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("starting", total=None, count="", ends=None)
        self._run = self._progress.add_task("run", total=iterations, count="", ends=None)
        self._phase: Phase = "starting"
        self.phases = Phases()
        self._since = self._spoke = self._began = time.monotonic()
        self._learning: float | None = None  # seconds of the last batch
        self._before = 0  # iterations, when `going_on` was called

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.update(self._bar, visible=False)
        self._progress.stop()
        if self._telemetry is not None:
            self._telemetry.phase(None)

    def status(self, phase: Phase) -> None:
        """Say what is going on now."""
        now = time.monotonic()
        if self._phase == "learning" and phase != "learning":
            self._learning = now - self._since
        self._phase, self._since, self._spoke = phase, now, now
        self.phases.begin(phase)
        ends = now + self._learning if phase == "learning" and self._learning is not None else None
        self._progress.reset(self._bar, description=phase, count="", ends=ends)
        self._progress.tasks[0].total = None  # nothing is counted yet; `reset` would keep the last phase's
        if self._telemetry is not None:
            self._telemetry.phase(phase)

    def images(self, done: int, total: int) -> None:
        """Say how many images of the phase are there."""
        self._counted(done, total, "images")

    def pairs(self, done: int, total: int) -> None:
        """Say how many pairs people have chosen between, for which the run waits."""
        if self._phase != "choosing":
            self.status("choosing")
        self._counted(done, total, "pairs")

    def _counted(self, done: int, total: int, what: str) -> None:
        now = time.monotonic()
        left = (now - self._since) / done * (total - done) if done else None
        count, ends = f"{done}/{total} {what}", None if left is None else now + left
        self._progress.update(self._bar, completed=done, total=total, count=count, ends=ends)
        if not self._console.is_terminal and now - self._spoke >= SPEAKS:
            self._spoke = now
            self.note(f"  {self._phase}  {count}" + ("" if left is None else f"   {_duration(left)} left"))

    def going_on(self, iteration: int) -> None:
        """Say that training begins here, after so many iterations."""
        self._before, self._began = iteration, time.monotonic()
        self._progress.update(self._run, completed=iteration, count=self._count(iteration), ends=None)

    def iteration(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Show an iteration's figures: the combined reward, every reward by its name, and how it goes.

        What could not be measured (NaN), as of a batch from which every pair was left out, is not shown.
        """
        words = [f"iteration {iteration:3d}/{self._iterations}"]
        known = {name: value for name, value in metrics.items() if not math.isnan(value)}
        if "reward/mean" in known:
            words.append(f"reward {round(known['reward/mean'], 3) + 0.0:+.3f}")  # no -0.000
        words += [f"{name[6:]} {figure(value)}" for name, value in known.items() if name.startswith("score/")]
        if metrics.get("samples") == 0:
            words.append("no samples")
        if "margin/accuracy" in metrics:
            words.append(f"accuracy {metrics['margin/accuracy']:.2f}")
        if (chosen := metrics.get("people/chosen")) is not None:
            answers = chosen + metrics["people/ties"] + metrics["people/both_bad"]
            words.append(f"decisive {chosen:g} of {counted(int(answers), 'answer')}")
        if metrics.get("dropped"):
            words.append(f"dropped {metrics['dropped']:.1%}")
        if "images_per_second" in metrics:
            words.append(f"images/s {metrics['images_per_second']:.1f}")
        self.note("   ".join(words))
        now, done = time.monotonic(), iteration - self._before
        ends = now + (now - self._began) / done * (self._iterations - iteration) if done > 0 else None
        self._progress.update(self._run, completed=iteration, count=self._count(iteration), ends=ends)
        self._export({"iteration": iteration, **metrics})

    def evaluation(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Show an evaluation's figures, a line for each split."""
        splits: dict[str, list[str]] = {}
        for name, value in metrics.items():
            _, split, what = name.split("/", 2)
            splits.setdefault(split, []).append(f"{what} {figure(value)}")
        for split, figures in splits.items():
            self.note(f"  {split:8s}  " + "   ".join(figures))
        self._export(metrics)

    def guard(self, used: Mapping[str, float]) -> None:
        """Show how much of what each rule of the guard allows an evaluation uses."""
        if used:
            self.note("  guard     " + "   ".join(f"{name[6:]} {figure(share)}" for name, share in used.items()))
        self._export(used)

    def lost(self, role: str, times: int) -> None:
        """Show that a role without a pool had to start again, and how often it has."""
        self._export({f"restarts/{role}": times})

    def _count(self, iteration: int) -> str:
        return f"{iteration}/{self._iterations} iterations"

    def note(self, line: str) -> None:
        """Show a line of text."""
        self._console.print(shown(line), highlight=False, markup=False, emoji=False, soft_wrap=True)

    def _export(self, figures: Mapping[str, float]) -> None:
        if self._telemetry is not None:
            self._telemetry.record(figures)


class _Left(ProgressColumn):
    """The time until the instant `ends` of a task, by the monotonic clock."""

    def render(self, task: Task) -> Text:
        if task.finished or task.fields["ends"] is None:
            return Text("")
        return Text(f"{_duration(task.fields['ends'] - time.monotonic())} left", style="progress.remaining")


def _duration(seconds: float) -> str:
    return str(timedelta(seconds=max(0, round(seconds))))
