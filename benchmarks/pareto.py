"""Reward against diversity and distance over the checkpoints of finished runs: a table and a picture.

    python -m benchmarks.pareto runs/ppod-0 runs/ppod-1 runs/nabla-0 ... [--reward shapes_agreement] [--out pareto.png]

Runs are grouped by objective. A method's front is its mean over seeds at each evaluation; single runs are drawn thin.
What a method has spent is what its learner counted: images that the reward judged and how many of them with their
gradient; and the seconds of its iterations.
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
SPENT = ("reward_queries", "reward_gradients", "seconds")


def series(folder: Path, reward: str) -> tuple[str, np.ndarray]:
    """The objective of a run, and `(evaluations, 7)`: the three of `SPENT`, the reward, the three of `FIGURES`."""
    config, found = read_config(folder / "config.yaml"), Records(folder).metrics()
    took = [(number, seconds) for number, seconds in found.get("time/iteration", []) if number]
    found["seconds"] = [(number, sum(of for _, of in took[: i + 1])) for i, (number, _) in enumerate(took)]
    missing = [name for name in SPENT if name not in found]
    if missing and f"eval/train/{reward}" in found:
        raise ConfigError(f"There is no {missing[0]!r} on record in {shown(str(folder))}; it was run by older code.")
    columns = [{0: 0.0, **dict(found.get(name, []))} for name in SPENT]
    columns += [dict(found.get(f"eval/train/{name}", [])) for name in (reward, *FIGURES)]
    shared = sorted(set.intersection(*map(set, columns)))
    return config.objective.name, np.array([[column[iteration] for column in columns] for iteration in shared])


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
    table = Table("method", "runs", "queries", "gradients", "seconds", args.reward, "gold", "diversity", "distance")
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    for (name, runs), colour in zip(methods.items(), plt.rcParams["axes.prop_cycle"].by_key()["color"], strict=False):
        shared = min(map(len, runs))
        stacked = np.stack([rows[:shared] for rows in runs])
        mean, spread = stacked.mean(axis=0), stacked.std(axis=0)
        for row, deviation in zip(mean, spread, strict=True):
            cells = [f"{value:.3f} ± {error:.3f}" for value, error in zip(row[3:], deviation[3:], strict=True)]
            table.add_row(name, str(len(runs)), *(f"{number:.0f}" for number in row[:3]), *cells)
        for axis, column in zip(axes, (5, 6), strict=True):
            for rows in runs:
                axis.plot(rows[:, 3], rows[:, column], color=colour, alpha=0.3, linewidth=1)
            axis.plot(mean[:, 3], mean[:, column], marker="o", color=colour, label=name)
    for axis, label in zip(axes, ("diversity within a prompt", "distance from the pretrained model"), strict=True):
        axis.set(xlabel=f"reward ({args.reward})", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(args.out, dpi=110)
    Console(width=140).print(table)
    print(f"picture: {args.out}")


if __name__ == "__main__":
    main()
