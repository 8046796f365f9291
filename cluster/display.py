"""What a person sees while a run goes on: a progress bar with time left, a line for each iteration, Ray's dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster.telemetry import Phase, Telemetry


class Display:
    """Progress of a run; on something that is not a terminal only the lines are written.

    Args:
        console: Where to write.
        iterations: Of the whole run.
        done: Of them, before this process.
        telemetry: Where the same goes for Ray's dashboard.
    """

    def __init__(self, console: Console, iterations: int, done: int = 0, telemetry: Telemetry | None = None) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=iterations, completed=done)
        self._iterations, self._telemetry = iterations, telemetry

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        if self._telemetry is not None:
            self._telemetry.phase(None)

    def status(self, phase: Phase) -> None:
        """Say what is going on now."""
        self._progress.update(self._task, description=phase)
        if self._telemetry is not None:
            self._telemetry.phase(phase)

    def iteration(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Show an iteration's figures."""
        words = [f"iteration {iteration:3d}/{self._iterations}"]
        for name, label, form in (
            ("reward/mean", "reward", "+.3f"),
            ("score/shapes_gold", "gold", ".3f"),
            ("margin/accuracy", "accuracy", ".2f"),
            ("images_per_second", "images/s", ".1f"),
        ):
            if name in metrics:
                words.append(f"{label} {metrics[name]:{form}}")
        self._console.print("   ".join(words), highlight=False, soft_wrap=True)
        self._progress.update(self._task, completed=iteration)
        self._export({"iteration": iteration, **metrics})

    def evaluation(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Show an evaluation's figures."""
        for split in ("train", "held_out"):
            figures = [
                f"{name.rsplit('/', 1)[1]} {value:.3f}" for name, value in metrics.items() if f"/{split}/" in name
            ]
            self._console.print(f"  {split:8s}  " + "   ".join(figures), highlight=False, soft_wrap=True)
        self._export(metrics)

    def lost(self, role: str, times: int) -> None:
        """Show that a role without a pool had to start again, and how often it has."""
        self._export({f"restarts/{role}": times})

    def _export(self, figures: Mapping[str, float]) -> None:
        if self._telemetry is not None:
            self._telemetry.record(figures)
