"""A long run with a trivial policy: does any process, or the object store, keep growing?

    python -m benchmarks.soak [--iterations 1000] [--out FOLDER]

The run is `cluster.local`'s: driver, learner, sampler, reward actor and Ray's own processes, each a process. Every few
seconds the memory that is a process's own (anonymous: not mapped from a file) is read, and the bytes in use in the
object store. Printed are the medians of the run's first, second and last quarter, and the slope of a straight line
from the second quarter on: in the first one caches fill.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import psutil
import ray
from ray._private.internal_api import node_stats
from rich.console import Console
from rich.table import Table

from cluster.arguments import Parser
from cluster.config import load_config
from cluster.crew.crew import dismiss, make_crew
from cluster.local import place
from cluster.loop import train
from cluster.records.display import Display
from cluster.records.rundir import RunDirectory
from cluster.records.telemetry import Telemetry
from shapes.arguments import positive
from tests.support.tiny import write_config

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SECONDS = 2.0  # between readings
STORE = "object store"
# A process's name here, by what its command line holds.
ROLES = {
    "ray::Sampler": "sampler",
    "ray::RewardActor": "reward actor",
    "ray::LearnerActor": "learner",
    "ray::WeightStore": "weight store",
    "raylet/raylet": "raylet",
    "gcs/gcs_server": "control store (GCS)",
}
Readings = dict[str, list[tuple[int, float]]]  # (iteration, bytes) by role


def soak(folder: Path, iterations: int) -> Readings:
    """Carry out the run and read."""
    config = load_config(write_config(folder), [f"iterations={iterations}", "name=soak", "samplers.request_size=4"])
    run = RunDirectory.create(config)
    crew = make_crew(config, place(config))
    display = _Counting(Console(quiet=True), iterations, telemetry=Telemetry("soak"))
    with display, _reading(lambda: display.reached) as readings:
        train(config, crew, run, display)
    dismiss(crew)
    ray.shutdown()
    return readings


class _Counting(Display):
    """A display that also remembers where the run is."""

    reached = 0

    def iteration(self, iteration: int, metrics: dict[str, float]) -> None:  # type: ignore[override]
        super().iteration(iteration, metrics)
        self.reached = iteration


@contextmanager
def _reading(iteration: Callable[[], int]) -> Iterator[Readings]:
    readings: Readings = {}
    done = threading.Event()

    def work() -> None:
        while not done.wait(SECONDS):
            found = dict(_processes()) | {STORE: _stored()}
            for role, size in found.items():
                readings.setdefault(role, []).append((iteration(), size))

    thread = threading.Thread(target=work)
    thread.start()
    yield readings
    done.set()
    thread.join()


def _stored() -> int:
    (node,) = ray.nodes()
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
    return stats.store_stats.object_store_bytes_used


def _processes() -> Iterator[tuple[str, float]]:
    own = psutil.Process()
    yield "driver", _own_memory(own)
    for process in own.children(recursive=True):
        try:
            line = " ".join(process.cmdline())
            for part, role in ROLES.items():
                if part in line:
                    yield role, _own_memory(process)
        except psutil.NoSuchProcess:
            continue


def _own_memory(process: psutil.Process) -> int:
    # Anonymous memory: what is mapped from files counts for one process or for none, as others come and go.
    memory = process.memory_info()
    return memory.rss - memory.shared


def summary(readings: Readings) -> list[dict[str, float | str]]:
    """Of each role, in MB: medians of the run's quarters, and the slope after the first one per 1,000 iterations."""
    rows: list[dict[str, float | str]] = []
    for role, values in readings.items():
        iterations, sizes = np.array(values).T
        sizes = sizes / 1e6
        first, second, _, last = (statistics.median(part) for part in np.array_split(sizes, 4))
        settled = slice(len(sizes) // 4, None)
        slope = 1000 * np.polyfit(iterations[settled], sizes[settled], 1)[0]
        rows.append({"role": role, "first": first, "second": second, "last": last, "slope": float(slope)})
    return rows


def draw(readings: Readings, path: Path) -> None:
    """The curves, relative to the median of the run's second quarter."""
    figure, (whole, change) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for role, values in readings.items():
        iterations, sizes = np.array(values).T
        sizes = sizes / 1e6
        settled = statistics.median(np.array_split(sizes, 4)[1])
        whole.plot(iterations, sizes, label=role, linewidth=1)
        change.plot(iterations, sizes - settled, linewidth=1)
    whole.set(title="Memory of its own", xlabel="iteration", ylabel="MB", ylim=(0, None))
    change.set(title="Change against the second quarter's median", xlabel="iteration", ylabel="MB", ylim=(-15, 15))
    whole.legend(fontsize=8, loc="center right")
    for axis in (whole, change):
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print, draw."""
    parser = Parser("benchmarks.soak", __doc__.splitlines()[0])
    parser.add_argument("--iterations", type=positive, default=1000)
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for soak.png and soak.json")
    args = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        readings = soak(Path(folder), args.iterations)
    seconds = time.monotonic() - started
    if len(readings.get("driver", [])) < 4:
        parser.error(f"{args.iterations} iterations took {seconds:.0f} s, too short for four readings")
    rows = summary(readings)
    title = f"{args.iterations} iterations in {seconds:.0f} s, MB"
    table = Table("", "first quarter", "second quarter", "last quarter", "per 1,000 iterations", title=title)
    for row in rows:
        table.add_row(str(row["role"]), *(f"{row[name]:.1f}" for name in ("first", "second", "last", "slope")))
    Console().print(table)
    draw(readings, args.out / "soak.png")
    figures = {"iterations": args.iterations, "seconds": seconds, "rows": rows, "readings": readings}
    (args.out / "soak.json").write_text(json.dumps(figures) + "\n")


if __name__ == "__main__":
    # Objects go through the store, however small, as images do. And Ray's niceness of 15 would starve its workers on a
    # machine that does something else too.
    os.environ.update(RAY_max_direct_call_object_size="1000", RAY_worker_niceness="0")
    main()
