"""Reward against diversity and distance over the checkpoints of finished runs: a table and a picture.

    python -m benchmarks.pareto runs/ppod-0 runs/ppod-1 runs/nabla-0 ... [--reward shapes_agreement] [--out pareto.png]

Runs are grouped by objective. A method's front is its mean over seeds at each evaluation; single runs are drawn thin.
What a method has spent is in reward queries, which the learner counts: images that the reward judged, with or without
their gradient.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
from rich.console import Console
from rich.table import Table

from cluster.arguments import Parser
from cluster.config import ConfigError, read_config
from cluster.records.reading import Records
from cluster.text import shown

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FIGURES = ("shapes_gold", "diversity", "distance")


def series(folder: Path, reward: str) -> tuple[str, np.ndarray]:
    """The objective of a run, and `(evaluations, 2 + figures)`: reward queries, reward, gold, diversity, distance."""
    config, found = read_config(folder / "config.yaml"), Records(folder).metrics()
    columns = {name: dict(found.get(f"eval/train/{name}", [])) for name in (reward, *FIGURES)}
    spent = {0: 0.0, **dict(found.get("reward_queries", []))}
    rows = [
        [spent[iteration], *(columns[name][iteration] for name in (reward, *FIGURES))]
        for iteration in sorted(set.intersection(set(spent), *map(set, columns.values())))
    ]
    return config.objective.name, np.array(rows)


def main() -> None:
    """The command line."""
    parser = Parser("benchmarks.pareto", __doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--reward", default="shapes_agreement")
    parser.add_argument("--out", type=Path, default=Path("pareto.png"))
    args = parser.parse_args()
    methods: dict[str, list[np.ndarray]] = defaultdict(list)
    for folder in args.runs:
        try:
            name, rows = series(folder, args.reward)
        except ConfigError as error:
            parser.exit(1, f"error: {error}\n")
        if not len(rows):
            parser.exit(1, f"error: There is no evaluation on record in {shown(str(folder))} with {args.reward!r}.\n")
        methods[name].append(rows)
    table = Table("method", "runs", "queries", args.reward, "gold", "diversity", "distance")
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for (name, runs), colour in zip(methods.items(), plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False):
        shared = min(map(len, runs))
        stacked = np.stack([rows[:shared] for rows in runs])
        mean, spread = stacked.mean(axis=0), stacked.std(axis=0)
        for row, deviation in zip(mean, spread, strict=True):
            cells = [f"{value:.3f} ± {error:.3f}" for value, error in zip(row[1:], deviation[1:], strict=True)]
            table.add_row(name, str(len(runs)), f"{row[0]:.0f}", *cells)
        for axis, column in zip(axes, (3, 4), strict=True):
            for rows in runs:
                axis.plot(rows[:, 1], rows[:, column], color=colour, alpha=0.3, linewidth=1)
            axis.plot(mean[:, 1], mean[:, column], marker="o", color=colour, label=name)
    for axis, label in zip(axes, ("diversity within a prompt", "distance from the pretrained model"), strict=True):
        axis.set(xlabel=f"reward ({args.reward})", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(args.out, dpi=110)
    Console(width=140).print(table)
    print(f"picture: {args.out}")


if __name__ == "__main__":
    main()
