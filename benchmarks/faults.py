"""What can go wrong on a cluster, done on purpose to a run whose driver and nodes are processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from benchmarks.nodes import STORE, Cluster

WORKER = ("--num-cpus=5", "--include-log-monitor=false")  # options of a worker node
_BLOCK = 4_000_000
_FULL = 3.0  # seconds that a store stays full
_ROOT = Path(__file__).parents[1]


class Stuck(RuntimeError):
    """The run ended, or does not go on; the message holds the end of its log."""


class Site:
    """A run on a cluster.

    Args:
        cluster: Where.
        config: File of the run's configuration.
        run: Its folder, below `folder`.
    """

    def __init__(self, cluster: Cluster, config: Path, run: Path, *overrides: str) -> None:
        self._cluster, self.run = cluster, run
        self._log = run.with_suffix(".log")
        self._others: list[subprocess.Popen] = []
        self._driver = self._start("cluster.train", str(config), f"folder={run.parent}", f"name={run.name}", *overrides)

    @property
    def iteration(self) -> int:
        """The newest iteration on record, -1 before the first."""
        return max((int(part.stem) for part in (self.run / "metrics.parquet").glob("[0-9]*.parquet")), default=-1)

    def reach(self, iteration: int, patience: float = 180) -> None:
        """Wait until an iteration is on record.

        Raises:
            Stuck: If the driver ends before, or it takes longer than `patience` seconds.
        """
        deadline = time.monotonic() + patience
        while self.iteration < iteration:
            if self._driver.poll() is not None:
                raise Stuck(f"The driver ended with {self._driver.returncode}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise Stuck(f"No iteration {iteration} after {patience:g} s:\n{self._tail()}")
            time.sleep(0.02)

    def finish(self, patience: float = 180) -> None:
        """Wait until the run has ended well.

        Raises:
            Stuck: If it does not.
        """
        try:
            status = self._driver.wait(patience)
        except subprocess.TimeoutExpired:
            raise Stuck(f"The run does not end:\n{self._tail()}") from None
        if status:
            raise Stuck(f"The driver ended with {status}:\n{self._tail()}")

    def close(self) -> None:
        """End what is still there."""
        for process in (self._driver, *self._others):
            process.kill()
            process.wait()

    def signal(self, role: str, number: signal.Signals, draw: float) -> None:
        """Send a signal to one of a role's actors that are up, chosen by a number in [0, 1)."""
        deadline = time.monotonic() + 60
        while not (victims := self._actors(role)):
            if time.monotonic() > deadline:
                raise Stuck(f"No process of the role {role} is there:\n{self._tail()}")
            time.sleep(0.02)
        os.kill(victims[int(draw * len(victims))], number)

    def lose_driver(self) -> None:
        """Kill the driver and resume its run."""
        self._driver.kill()
        self._driver.wait()
        self._driver = self._start("cluster.train", "--resume", str(self.run))

    def lose_node(self, draw: float) -> None:
        """Kill a worker node; an empty one takes its place."""
        self._cluster.lose(self._cluster.nodes[int(draw * len(self._cluster.nodes))])
        self._cluster.add(*WORKER)

    def fill_stores(self) -> None:
        """Fill every node's object store with objects that are in use, and so can be neither dropped nor spilled."""
        self._others.append(self._start("benchmarks.faults"))

    def _actors(self, role: str) -> list[int]:
        found = []
        for process in self._cluster.processes():
            try:
                title = process.cmdline()[0]
                if title.startswith(f"ray::{role}") and not title.endswith("__init__"):
                    found.append(process.pid)
            except (psutil.NoSuchProcess, psutil.AccessDenied, IndexError):  # gone, or a zombie
                continue
        return sorted(found)

    def _start(self, *arguments: str) -> subprocess.Popen:
        with self._log.open("a") as log:
            command = [sys.executable, "-m", *arguments]
            environment = self._cluster.environment | {"RAY_ADDRESS": self._cluster.address}
            return subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=log, stderr=log)

    def _tail(self) -> str:
        return "\n".join(self._log.read_text().splitlines()[-30:])


Strike = Callable[[Site, float], None]

# Every fault by its name; the number chooses the victim.
FAULTS: dict[str, Strike] = {
    "sampler killed": lambda site, draw: site.signal("Sampler", signal.SIGKILL, draw),
    "reward actor killed": lambda site, draw: site.signal("RewardActor", signal.SIGKILL, draw),
    "learner killed": lambda site, draw: site.signal("LearnerActor", signal.SIGKILL, draw),
    "weight store killed": lambda site, draw: site.signal("WeightStore", signal.SIGKILL, draw),
    "driver killed": lambda site, _: site.lose_driver(),
    "node lost": lambda site, draw: site.lose_node(draw),
    "sampler paused": lambda site, draw: site.signal("Sampler", signal.SIGSTOP, draw),
    "reward actor paused": lambda site, draw: site.signal("RewardActor", signal.SIGSTOP, draw),
    "learner paused": lambda site, draw: site.signal("LearnerActor", signal.SIGSTOP, draw),
    "object stores full": lambda site, _: site.fill_stores(),
}


@ray.remote(num_cpus=0, max_retries=0)
def _fill() -> None:
    held: list[np.ndarray] = []
    until = time.monotonic() + _FULL
    while time.monotonic() < until and len(held) < 2 * STORE // _BLOCK:
        held.append(ray.get(ray.put(np.zeros(_BLOCK, np.uint8))))
    time.sleep(max(0.0, until - time.monotonic()))


def main() -> None:
    """Fill the stores of all nodes for a while."""
    ray.init(address="auto", log_to_driver=False)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    ray.get(
        [_fill.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes]
    )


if __name__ == "__main__":
    main()
