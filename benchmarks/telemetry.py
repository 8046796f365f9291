"""What being watched costs: images per second with everything on against everything off.

    python -m benchmarks.telemetry [config.yaml] [key=value ...]

On: gauges and counters through Ray, TensorBoard's event files, Ray's dashboard, and somebody who scrapes the metrics
every five seconds as Prometheus does. Off: none of them. Both are the same run on this machine, measured in turns; a
run's figure is the median time between its iterations, without the first.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import ray
from rich.console import Console

from cluster.config import Config, load_config
from cluster.crew import dismiss, make_crew
from cluster.display import Display
from cluster.local import place
from cluster.loop import train
from cluster.rundir import RunDirectory
from cluster.telemetry import Telemetry

ITERATIONS = 8
ROUNDS = 3
SCRAPE_SECONDS = 5


def seconds_an_iteration(config: Config, watched: bool) -> float:
    """Median over a run of its own."""
    start = ray.init
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        config = config.model_copy(update={"folder": folder, "name": "telemetry"})
        run = RunDirectory.create(config)
        stack.enter_context(mock.patch("ray.init", lambda **given: start(**given | {"include_dashboard": watched})))
        if not watched:
            stack.enter_context(mock.patch("cluster.rundir.EventFile"))
        crew = make_crew(config, place(config))
        if watched:
            stack.enter_context(_scraped())
        telemetry = Telemetry("telemetry") if watched else None
        with Display(Console(quiet=True), config.iterations, telemetry=telemetry) as display:
            train(config, crew, run, display)
        dismiss(crew)
        stack.close()
        ray.shutdown()
        parts = sorted(Path(folder).glob("telemetry/metrics.parquet/*.parquet"))[1:-1]  # evaluations left out
        return statistics.median(np.diff([pq.read_table(part)["time"][0].as_py() for part in parts]))


@contextlib.contextmanager
def _scraped() -> Iterator[None]:
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    done = threading.Event()

    def work() -> None:
        while not done.wait(SCRAPE_SECONDS):
            with urllib.request.urlopen(url) as page:
                page.read()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    done.set()
    thread.join()


def main(arguments: list[str]) -> None:
    """Measure and print."""
    path = Path(arguments[0]) if arguments and "=" not in arguments[0] else None
    overrides = [f"iterations={ITERATIONS + 1}", "evaluation.every=0", "evaluation.samples=2"]
    config = load_config(path, [*arguments[path is not None :], *overrides, "evaluation.held_out_samples=2"])
    ratios = []
    for turn in range(ROUNDS):
        order = (False, True) if turn % 2 == 0 else (True, False)
        seconds = {watched: seconds_an_iteration(config, watched) for watched in order}
        ratios.append(seconds[False] / seconds[True])
        print(
            f"round {turn + 1}: off {config.batch_size / seconds[False]:.2f} images/s, on "
            f"{config.batch_size / seconds[True]:.2f} images/s, ratio {ratios[-1]:.3f}",
            flush=True,
        )
    print(f"median ratio {statistics.median(ratios):.3f} (at least 0.97 is the aim)")


if __name__ == "__main__":
    main(sys.argv[1:])
