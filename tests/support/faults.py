"""What can go wrong on a cluster, done on purpose to a run whose driver and nodes are processes of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.arguments import Parser
from tests.support.nodes import STORE, Cluster

WORKER = ("--num-cpus=5", "--include-log-monitor=false")  # options of a worker node
EVALUATES = 4  # iterations between evaluations of the runs
ROLES = ("Sampler", "RewardActor", "LearnerActor", "WeightStore")
# In the middle of what a fault can strike, and what the learner does then; the two without a word are seen otherwise.
WINDOWS = {"start": "__init__", "restore": "restore", "publish": "", "checkpoint": "save", "evaluation": ""}
_BLOCK = 4_000_000
_FULL = 3.0  # seconds that a store stays full
_LINGERS = 30.0  # seconds that what a driver has left may take to end by itself
_ROOT = Path(__file__).parents[2]


class Stuck(RuntimeError):
    """The run ended, or does not go on; the message holds the end of its log."""


class Site:
    """A run whose driver is a process of its own.

    Args:
        cluster: Where; without one the run is on this machine alone.
        config: File of the run's configuration.
        run: Its folder.
        overrides: Further settings.
    """

    def __init__(self, cluster: Cluster | None, config: Path, run: Path, *overrides: str) -> None:
        self._cluster, self.run = cluster, run
        self._program = "cluster.train" if cluster else "cluster.local"
        self._settings = (str(config), f"folder={run.parent}", f"name={run.name}", *overrides)
        self._log = run.with_suffix(".log")
        self._ray = Path(tempfile.mkdtemp(prefix="site-", dir="/tmp"))  # short, for Unix sockets
        self._others: list[subprocess.Popen] = []
        self._driver = self._start(self._program, *self._settings)

    @property
    def iteration(self) -> int:
        """The newest iteration on record, -1 before the first."""
        return max((int(part.stem) for part in (self.run / "metrics.parquet").glob("[0-9]*.parquet")), default=-1)

    def reach(self, iteration: int, patience: float = 240) -> None:
        """Wait until an iteration is on record.

        Raises:
            Stuck: If the driver ends before, or it takes longer than `patience` seconds.
        """
        self._until(lambda: self.iteration >= iteration, f"iteration {iteration}", patience)

    def catch(self, window: str, draw: float) -> None:
        """Wait until the run is in the middle of something, see `WINDOWS`.

        Raises:
            Stuck: If that does not come.
        """
        learner = _Learner(self)
        if window == "start":
            self._until(lambda: learner.does("__init__"), "learner that loads")
            time.sleep(2 * draw)
        elif window == "publish":  # at the end of an update
            self._until(lambda: learner.does("update"), "update")
            self._until(lambda: not learner.does("update"), "publication")
        elif window == "evaluation":  # which begins where an iteration and its checkpoint are written
            following = self.iteration + 1
            self.reach(following + -following % EVALUATES)
            self._until(lambda: not learner.does("save"), "evaluation")
            time.sleep(0.3 * draw)
        else:
            self._until(lambda: learner.does(WINDOWS[window]), window)

    def finish(self, patience: float = 240) -> None:
        """Wait until the run has ended well, and left nothing behind.

        Raises:
            Stuck: If it does not.
        """
        before = self._processes()
        try:
            status = self._driver.wait(patience)
        except subprocess.TimeoutExpired:
            raise Stuck(f"The run does not end:\n{self._tail()}") from None
        if status:
            raise Stuck(f"The driver ended with {status}:\n{self._tail()}")
        self._nothing_left(before, orderly=True)

    def close(self) -> None:
        """End what is still there, and a Ray of the driver's own with it."""
        own = [] if self._cluster else self._processes()
        for process in (self._driver, *self._others):
            process.kill()
            process.wait()
        deadline = time.monotonic() + _LINGERS
        while (alive := [process for process in own if _runs(process)]) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self._ray, ignore_errors=True)

    def strike(self, role: str, number: signal.Signals, draw: float) -> None:
        """Send a signal to one of a role's actors that are up, or else load, chosen by a number in [0, 1)."""
        deadline = time.monotonic() + 60
        while not (victims := self.actors(role) or self.actors(role, loading=True)):
            if time.monotonic() > deadline:
                raise Stuck(f"No process of the role {role} is there:\n{self._tail()}")
            time.sleep(0.02)
        with contextlib.suppress(ProcessLookupError):
            os.kill(victims[int(draw * len(victims))], number)

    def end_driver(self, number: signal.Signals) -> None:
        """End the driver as a terminal or a scheduler does, see that it leaves nothing behind, and continue its run.

        Raises:
            Stuck: If its exit status is another, or something is left.
        """
        before = self._processes()
        # A terminal tells the whole group of processes.
        (os.killpg if number in (signal.SIGINT, signal.SIGHUP) else os.kill)(self._driver.pid, number)
        try:
            status = self._driver.wait(90)
        except subprocess.TimeoutExpired:
            raise Stuck(f"The driver goes on after {number.name}:\n{self._tail()}") from None
        if status != (-number if number == signal.SIGKILL else 128 + number):
            raise Stuck(f"After {number.name} the driver ended with {status}:\n{self._tail()}")
        self._nothing_left(before, orderly=number != signal.SIGKILL)
        again = ("--resume", str(self.run)) if (self.run / "config.yaml").exists() else self._settings
        self._driver = self._start(self._program, *again)

    def lose_node(self, draw: float) -> None:
        """Kill a worker node; an empty one takes its place."""
        assert self._cluster is not None
        self._cluster.lose(self._cluster.nodes[int(draw * len(self._cluster.nodes))])
        self._cluster.add(*WORKER)

    def fill_stores(self) -> None:
        """Fill every node's object store with objects that are in use, and so can be neither dropped nor spilled."""
        self._others.append(self._start("tests.support.faults"))

    def actors(self, role: str, loading: bool = False) -> list[int]:
        """Process ids of a role's actors that are up, or that load."""
        titles = {process.pid: title_of(process.pid) for process in self._processes()}
        mark = f"{role}.__init__"
        return sorted(
            pid
            for pid, title in titles.items()
            if title.startswith("ray::")
            and (title.endswith(mark) if loading else title.startswith(f"ray::{role}") and not title.endswith(mark))
        )

    def _processes(self) -> list[psutil.Process]:
        if self._cluster:
            return list(self._cluster.processes())
        try:
            return psutil.Process(self._driver.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _nothing_left(self, before: list[psutil.Process], orderly: bool) -> None:
        deadline = time.monotonic() + _LINGERS
        while found := self._left(before, orderly):
            if time.monotonic() > deadline:
                raise Stuck(f"The driver has ended and left {', '.join(found)}:\n{self._tail()}")
            time.sleep(0.1)

    def _left(self, before: list[psutil.Process], orderly: bool) -> list[str]:
        """What a driver that has ended leaves: actors; of a Ray of its own everything; half-written files."""
        if self._cluster:
            found = [f"a {role}" for role in ROLES if self.actors(role) or self.actors(role, loading=True)]
        else:
            alive = [process for process in before if process.is_running()]
            found = [f"the process {title_of(process.pid)}" for process in alive if _runs(process)]
            found += [str(path) for path in self._ray.iterdir()]
        if orderly:
            found += [str(path) for path in self.run.rglob(".*")]
        return found

    def _until(self, reached: Callable[[], bool], what: str, patience: float = 240) -> None:
        deadline = time.monotonic() + patience
        while not reached():
            if self._driver.poll() is not None:
                raise Stuck(f"The driver ended with {self._driver.returncode}:\n{self._tail()}")
            if time.monotonic() > deadline:
                raise Stuck(f"No {what} after {patience:g} s:\n{self._tail()}")
            time.sleep(0.001)

    def _start(self, *arguments: str) -> subprocess.Popen:
        with self._log.open("a") as log:
            command = [sys.executable, "-m", *arguments]
            environment = os.environ | {"RAY_TMPDIR": str(self._ray), "RAY_worker_niceness": "0"}
            if self._cluster:
                environment = self._cluster.environment | {"RAY_ADDRESS": self._cluster.address}
            return subprocess.Popen(command, cwd=_ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)

    def _tail(self) -> str:
        return "\n".join(self._log.read_text().splitlines()[-30:])


class _Learner:
    """What the learner does now, by the title of its process, which Ray sets at each call."""

    def __init__(self, site: Site) -> None:
        self._site, self._pid, self._looked = site, 0, 0.0

    def does(self, method: str) -> bool:
        title = title_of(self._pid) if self._pid else ""
        if "LearnerActor" not in title and time.monotonic() - self._looked > 0.1:
            found = self._site.actors("LearnerActor") or self._site.actors("LearnerActor", loading=True)
            self._pid, self._looked = (found or [0])[-1], time.monotonic()
            title = title_of(self._pid) if self._pid else ""
        return title.endswith(f"LearnerActor.{method}")


def title_of(pid: int) -> str:
    """The first word of a process's command line; empty if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


Strike = Callable[[Site, float], None]

# Every fault by its name; the number chooses the victim.
FAULTS: dict[str, Strike] = {
    "sampler killed": lambda site, draw: site.strike("Sampler", signal.SIGKILL, draw),
    "reward actor killed": lambda site, draw: site.strike("RewardActor", signal.SIGKILL, draw),
    "learner killed": lambda site, draw: site.strike("LearnerActor", signal.SIGKILL, draw),
    "weight store killed": lambda site, draw: site.strike("WeightStore", signal.SIGKILL, draw),
    "driver killed": lambda site, _: site.end_driver(signal.SIGKILL),
    "driver: SIGTERM": lambda site, _: site.end_driver(signal.SIGTERM),
    "driver: Ctrl-C": lambda site, _: site.end_driver(signal.SIGINT),
    "driver: terminal closed": lambda site, _: site.end_driver(signal.SIGHUP),
    "node lost": lambda site, draw: site.lose_node(draw),
    "sampler paused": lambda site, draw: site.strike("Sampler", signal.SIGSTOP, draw),
    "reward actor paused": lambda site, draw: site.strike("RewardActor", signal.SIGSTOP, draw),
    "learner paused": lambda site, draw: site.strike("LearnerActor", signal.SIGSTOP, draw),
    "weight store paused": lambda site, draw: site.strike("WeightStore", signal.SIGSTOP, draw),
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
    Parser("tests.support.faults", f"{__doc__}\n\nAs a command it fills the object stores of all nodes.").parse_args()
    ray.init(address="auto", log_to_driver=False)
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]
    ray.get(
        [_fill.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote() for node in nodes]
    )


if __name__ == "__main__":
    main()
