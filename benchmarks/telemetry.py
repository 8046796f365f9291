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
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from unittest import mock

import ray

from benchmarks.overhead import short_run, whole_loop
from cluster.config import Config
from cluster.records.telemetry import Telemetry

ITERATIONS = 8
ROUNDS = 3
SCRAPE_SECONDS = 5


def seconds_an_iteration(config: Config, watched: bool) -> float:
    """Median over a run of its own."""
    start = ray.init
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("ray.init", lambda **given: start(**given | {"include_dashboard": watched})))
        if watched:
            return whole_loop(config, _scraped).seconds
        stack.enter_context(mock.patch("cluster.records.rundir.EventFile"))
        return whole_loop(config).seconds


@contextlib.contextmanager
def _scraped() -> Iterator[Telemetry]:
    (node,) = ray.nodes()
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    done, sizes = threading.Event(), []

    def work() -> None:
        while not done.wait(SCRAPE_SECONDS):
            with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url) as page:
                sizes.append(len(page.read()))

    thread = threading.Thread(target=work)
    thread.start()
    yield Telemetry("telemetry")
    done.set()
    thread.join()
    if not sizes:
        raise RuntimeError(f"Nothing was ever exported at {url}, so nothing has been measured.")


def main(arguments: Sequence[str]) -> None:
    """Measure and print."""
    config = short_run("benchmarks.telemetry", __doc__, arguments, ITERATIONS)
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
