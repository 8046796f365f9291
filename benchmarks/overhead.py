"""What the actors cost: images per second of the whole loop against a plain loop over the same functions.

    python -m benchmarks.overhead [config.yaml] [key=value ...]

One sampler, synchronous. The plain loop runs rollout, rewards and learner in this process, with the same config and
requests, so that both make the same passes of the network; they are measured in turns in one run, and neither count
starts before its first iteration is over (imports, caches). The loop's time is wall time between iterations, with
records and checkpoints; of it the run's own timeline says who worked and who waited. Ray would give its processes a
niceness of 15; here they have this one's, so that what else the machine does meets both loops alike.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from rich.console import Console

from benchmarks.arguments import parse_config
from benchmarks.plain import PlainRun
from cluster.config import Config
from cluster.crew.crew import dismiss, make_crew
from cluster.local import place
from cluster.loop import train
from cluster.records.display import Display
from cluster.records.rundir import RunDirectory
from cluster.records.telemetry import Telemetry
from cluster.sources.spans import Spans

ITERATIONS = 3
ROUNDS = 3
WORK = ("rollout", "update", "score")


def plain_loop(config: Config) -> float:
    """Seconds an iteration of the same work in one process."""
    run = PlainRun(config)
    times = [time.perf_counter()]
    for iteration in range(ITERATIONS):
        run.learner.step(run.collate([run.draw(request) for request in run.requests(iteration)]))
        times.append(time.perf_counter())
    return statistics.median(np.diff(times[1:]))


class Measured(NamedTuple):
    """What was seen of a whole loop."""

    seconds: float  # of an iteration, the median
    shares: dict[str, float]  # of an iteration, where its time went; together 1
    metrics: list[dict[str, float]]  # on record of iterations, one after another, without the first and the last


def whole_loop(
    config: Config, watch: Callable[[], AbstractContextManager[Telemetry | None]] = contextlib.nullcontext
) -> Measured:
    """Iterations of `cluster.loop`, through Ray, while `watch` looks on."""
    niceness = mock.patch.dict(os.environ, RAY_worker_niceness="0")  # added to this process's
    with niceness, tempfile.TemporaryDirectory() as folder:
        config = config.model_copy(update={"folder": folder, "name": "measured"})
        run = RunDirectory.create(config)
        crew = make_crew(config, place(config))
        with watch() as telemetry, Display(Console(quiet=True), config.iterations, telemetry=telemetry) as display:
            train(config, crew, run, display)
        dismiss(crew)
        ray.shutdown()
        parts = sorted((run.path / "metrics.parquet").glob("*.parquet"))[1:-1]  # evaluations left out
        tables = [pq.read_table(part) for part in parts]
        seconds = statistics.median(np.diff([table["time"][0].as_py() for table in tables]))
        metrics = [dict(zip(t["name"].to_pylist(), t["value"].to_pylist(), strict=True)) for t in tables]
        timeline = pa.concat_tables(
            pq.read_table(part) for part in sorted((run.path / "timeline.parquet").glob("*.parquet"))
        )
        return Measured(seconds, where_it_went(timeline), metrics)


def where_it_went(timeline: pa.Table) -> dict[str, float]:
    """Shares of the time of iterations, each from its first rollout to the next one's; the first and last do not count.

    What a share says is what went on while nothing that stands before it did.

    Args:
        timeline: Of a run, see `cluster.records.timeline`; of at least three iterations.
    """
    rows = [row for row in timeline.to_pylist() if row["what"] in WORK]
    spans, begins = Spans(), dict[int, float]()
    for row in rows:
        if row["what"] == "rollout":
            begins[row["iteration"]] = min(row["started"], begins.get(row["iteration"], float("inf")))
        for kind in WORK[WORK.index(row["what"]) :]:
            spans.add(kind, row["started"], row["seconds"])
    _, since, *_, until = (begins[iteration] for iteration in sorted(begins) if iteration)
    busy = [0.0, *(spans.busy(kind, since, until) for kind in WORK), until - since]
    return dict(zip((*WORK, "rest"), np.diff(busy) / (until - since), strict=True))


def short_run(module: str, description: str | None, arguments: Sequence[str], iterations: int) -> Config:
    """A benchmark's configuration, for so many iterations after a first one, with next to no evaluation."""
    overrides = [f"iterations={iterations + 1}", "evaluation={every: 0, samples: 2, held_out_samples: 2}"]
    return parse_config(module, description, arguments, *overrides)


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    config = short_run("benchmarks.overhead", __doc__, arguments, ITERATIONS)
    ratios = []
    for turn in range(ROUNDS):
        plain, (whole, shares, _) = plain_loop(config), whole_loop(config)
        ratios.append(plain / whole)
        print(
            f"round {turn + 1}: plain {config.batch_size / plain:.2f} images/s, whole loop "
            f"{config.batch_size / whole:.2f} images/s, ratio {plain / whole:.3f}; of the whole loop's time "
            f"{shares['rollout']:.1%} rollouts, {shares['update']:.1%} updates, {shares['score']:.1%} scores that both "
            f"wait for, {shares['rest']:.1%} the driver and messages",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.3f} (at least 0.95 is the aim)")


if __name__ == "__main__":
    main(sys.argv[1:])
