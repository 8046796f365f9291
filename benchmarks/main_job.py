"""The README's table: what the main job changes, averaged over runs with different seeds.

for seed in 0 1 2; do python -m cluster.local name=seed$seed seed=$seed; done
python -m benchmarks.main_job runs/seed0 runs/seed1 runs/seed2
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from cluster.arguments import Parser
from cluster.rundir import RunDirectory


def evaluation(run: RunDirectory, split: str) -> dict[str, tuple[float, float]]:
    """Before and after of each figure of one run's evaluation."""
    found = {
        name.rsplit("/", 1)[1]: (values[0][1], values[-1][1])
        for name, values in run.metrics().items()
        if name.startswith(f"eval/{split}/")
    }
    samples = pq.read_table(run.path / "samples.parquet", filters=[("split", "=", split)])
    iterations, gold = (samples[name].to_numpy() for name in ("iteration", "shapes_gold"))
    first, last = (gold[iterations == iteration] for iteration in (iterations.min(), iterations.max()))
    found["all facts right"] = (float((first == 1).mean()), float((last == 1).mean()))
    found["images"] = (len(first), len(last))
    return found


def main(arguments: list[str]) -> None:
    """Print the table."""
    parser = Parser("benchmarks.main_job", __doc__ or "")
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    runs = [RunDirectory(folder) for folder in parser.parse_args(arguments).runs]
    print("| evaluation | figure | before | after | change, run by run |\n|---|---|---|---|---|")
    for split, title in (("train", "trained prompts, unseen seeds"), ("held_out", "held-out combinations")):
        figures = [evaluation(run, split) for run in runs]
        for name in figures[0]:
            before, after = (np.array([figure[name][i] for figure in figures]) for i in (0, 1))
            changes = ", ".join(f"{change:+.3f}" for change in after - before)
            if name == "diversity":
                changes = ", ".join(f"{ratio:.0%}" for ratio in after / before) + " kept"
            print(f"| {title} | {name} | {before.mean():.3f} | {after.mean():.3f} | {changes} |")
    minutes = [pq.read_table(run.path / "metrics.parquet")["time"].to_numpy() for run in runs]
    print("minutes from the first evaluation to the last:", ", ".join(f"{np.ptp(t) / 60:.1f}" for t in minutes))


if __name__ == "__main__":
    main(sys.argv[1:])
