"""What a person sees while a run goes on: a progress bar with time left, and a line for each iteration."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Display:
    """Progress of a run; on something that is not a terminal only the lines are written.

    Args:
        console: Where to write.
        iterations: Of the whole run.
        done: Of them, before this process.
    """

    def __init__(self, console: Console, iterations: int, done: int = 0) -> None:
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
        self._iterations = iterations

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def status(self, text: str) -> None:
        """Say what is going on now."""
        self._progress.update(self._task, description=text)

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

    def evaluation(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """Show an evaluation's figures."""
        for split in ("train", "held_out"):
            figures = [
                f"{name.rsplit('/', 1)[1]} {value:.3f}" for name, value in metrics.items() if f"/{split}/" in name
            ]
            self._console.print(f"  {split:8s}  " + "   ".join(figures), highlight=False, soft_wrap=True)
