"""How each arm learns: a picture an arm, of what its batches scored, over the images that it has shown the reward."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from benchmarks.methods.cells import is_finished
from benchmarks.methods.grid import Cell
from cluster.records.reading import Records

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_GOLD = "score/shapes_gold"


def learned(cells: Sequence[Cell]) -> tuple[np.ndarray, np.ndarray, str]:
    """The curves of runs that differ in their seeds alone.

    Args:
        cells: Finished ones, of equally many iterations.

    Returns:
        `(queries, scores, name)`: images shown to the reward so far, (iterations,), the mean over seeds; the mean score
        of each iteration's batch, (seeds, iterations), drawn before its update; and what scored it, the gold score
        where there is one and else the reward.
    """
    metrics = [Records(cell.run).metrics() for cell in cells]
    name = _GOLD if all(_GOLD in found for found in metrics) else "reward/mean"
    spent, scored = ([dict(found[key]) for found in metrics] for key in ("reward_queries", name))
    iterations = sorted(spent[0])
    queries = np.array([[of[iteration] for iteration in iterations] for of in spent])
    # A batch that nobody could judge has no score.
    scores = np.array([[of.get(iteration, np.nan) for iteration in iterations] for of in scored])
    return queries.mean(0), scores, name


def draw_curves(cells: Sequence[Cell], folder: Path) -> None:
    """Write `curves/ARM.png` in a folder: a line a world, the mean over seeds, with one standard error about it."""
    finished = [cell for cell in cells if is_finished(cell)]
    for arm in dict.fromkeys(cell.arm for cell in finished):
        figure, axis = plt.subplots(figsize=(6, 3.2), layout="constrained")
        of_arm = [cell for cell in finished if cell.arm == arm]
        for world in dict.fromkeys(cell.world for cell in of_arm):
            queries, scores, name = learned(runs := [cell for cell in of_arm if cell.world == world])
            mean, seeds = scores.mean(0), len(runs)
            (line,) = axis.plot(queries, mean, marker=".", label=f"{world} ({seeds} seed{'s' if seeds > 1 else ''})")
            if seeds > 1:
                error = scores.std(0, ddof=1) / seeds**0.5
                axis.fill_between(queries, mean - error, mean + error, color=line.get_color(), alpha=0.2, linewidth=0)
            axis.set_ylabel({_GOLD: "gold score of the batch"}.get(name, "reward of the batch"))
        axis.set(title=arm, xlabel="images shown to the reward")
        axis.grid(alpha=0.3)
        axis.legend()
        path = folder / "curves" / f"{arm}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=90)
        plt.close(figure)
