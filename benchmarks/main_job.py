"""A table of what runs changed, averaged over runs with different seeds; the README's is of the main job.

for seed in 0 1 2; do python -m cluster.local name=seed$seed seed=$seed; done
python -m benchmarks.main_job runs/seed0 runs/seed1 runs/seed2

Any runs of one configuration will do: the rows are the figures of their evaluations. Where the embedded world's gold
score was watched, the share of images with every fact right is one of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cluster.arguments import Parser
from cluster.records.reading import Records

_TITLES = {
    "train": "trained prompts, unseen seeds",
    "held_out": "held-out prompts",
    "train_everywhere": "trained prompts, adapter in every step",
}


def evaluations(run: Records) -> dict[tuple[str, str], tuple[float, float]]:
    """Before and after of each figure of a run's evaluations, by split and figure."""
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for name, values in run.metrics().items():
        if name.startswith("eval/"):
            _, split, figure = name.split("/", 2)
            found[split, figure] = values[0][1], values[-1][1]
    for split in {split: None for split, _ in found}:
        samples = pq.read_table(run.path / "samples.parquet", filters=[("split", "=", split)])
        iterations = samples["iteration"].to_numpy()
        ends = [iterations == iteration for iteration in (iterations.min(), iterations.max())]
        if "shapes_gold" in samples.column_names:
            gold = samples["shapes_gold"].to_numpy()
            found[split, "all facts right"] = (float((gold[ends[0]] == 1).mean()), float((gold[ends[1]] == 1).mean()))
        found[split, "images"] = (float(ends[0].sum()), float(ends[1].sum()))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit status."""
    parser = Parser("benchmarks.main_job", "Print what runs of one configuration changed, as a table.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    runs = [Records(path) for path in parser.parse_args(arguments).runs]
    found = []
    for run in runs:
        if not run.metrics():
            print(f"error: There are no records of a run in {run.path}.", file=sys.stderr)
            return 1
        found.append(evaluations(run))
    rows = [row for row in found[0] if all(row in other for other in found)]
    if not rows:
        print("error: The runs have no figure of an evaluation in common.", file=sys.stderr)
        return 1
    print("| evaluation | figure | before | after | change, run by run |\n|---|---|---|---|---|")
    for split, name in sorted(rows, key=lambda row: list(dict.fromkeys(split for split, _ in rows)).index(row[0])):
        before, after = (np.array([of[split, name][i] for of in found]) for i in (0, 1))
        title, digits = _TITLES.get(split, split), 0 if name == "images" else 3
        changes = ", ".join(f"{change:+.{digits}f}" for change in after - before)
        if name == "diversity":
            changes = ", ".join(f"{ratio:.0%}" for ratio in after / before) + " kept"
        print(f"| {title} | {name} | {before.mean():.{digits}f} | {after.mean():.{digits}f} | {changes} |")
    minutes = [np.ptp(pq.read_table(run.path / "metrics.parquet")["time"].to_numpy()) / 60 for run in runs]
    print("minutes from the first record to the last:", ", ".join(f"{of:.1f}" for of in minutes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
