"""A Ray cluster of several nodes on this machine: `ray start` in processes of their own, on loopback, with a token."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

STORE = 80_000_000  # bytes of each node's object store, about the least that Ray allows
_RAY = [sys.executable, "-m", "ray.scripts.scripts"]
_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Objects go through the stores, however small, as images do: a node takes with it what it held.
    "RAY_max_direct_call_object_size": "1000",
    "RAY_metrics_report_interval_ms": "500",
    "RAY_health_check_period_ms": "1000",  # a lost node is noticed sooner
    "RAY_health_check_failure_threshold": "2",
    "RAY_raylet_start_wait_time_s": "180",  # and a busy machine is waited for
    "RAY_JOB_STOP_WAIT_TIME_S": "120",
    "RAY_worker_niceness": "0",  # Ray's 15 would starve them on a machine that does something else too
}


class Cluster:
    """A head and the nodes that join it.

    Args:
        head: Options of its `ray start`.
        jobs: Whether the head takes jobs, which needs its dashboard.

    Attributes:
        address: Where a driver joins, as `RAY_ADDRESS`.
        environment: Of a driver or a client.
        metrics: Where the head's node exports them.
        nodes: The `ray start` processes of the other nodes.
    """

    def __init__(self, *head: str, jobs: bool = False) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Unix sockets below it have a length limit
        self._numbers = itertools.count()
        port, dashboard, metrics, client = free_ports(4)
        self.address, self.metrics = f"127.0.0.1:{port}", f"http://127.0.0.1:{metrics}"
        self.environment = os.environ | _SETTINGS | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_TOKEN": secrets.token_hex(24),
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        }  # fmt: skip
        ports = [f"--port={port}", f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}"]
        shown = ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"] if jobs else ["--include-dashboard=no"]
        self.nodes: list[psutil.Popen] = []
        try:
            self._head = self._start("--head", *ports, *shown, *head)
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        deadline = time.monotonic() + 120
        while jobs and self.ray("job", "list").returncode:
            if time.monotonic() > deadline:
                raise RuntimeError("The head takes no jobs.")

    def add(self, *options: str) -> psutil.Popen:
        """Start one more node with these options, and wait until it has joined."""
        (metrics,) = free_ports(1)
        self.nodes.append(self._start(f"--address={self.address}", f"--metrics-export-port={metrics}", *options))
        return self.nodes[-1]

    def lose(self, node: psutil.Popen) -> None:
        """Kill every process of a node at once, as a loss of power does."""
        self.nodes.remove(node)
        _kill(node)

    def leave(self, node: psutil.Popen) -> None:
        """End a node in good order, as `ray stop` does."""
        self.nodes.remove(node)
        node.terminate()
        node.wait(timeout=60)

    def ray(self, *words: str) -> subprocess.CompletedProcess:
        """Run a command of Ray's as a client."""
        return subprocess.run([*_RAY, *words], env=self.environment, capture_output=True, text=True)

    def processes(self) -> Iterator[psutil.Process]:
        """Every process of every node."""
        for node in (self._head, *self.nodes):
            yield from _family(node)

    def close(self) -> None:
        """Kill all nodes."""
        for node in (*self.nodes, self._head):
            _kill(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, *options: str) -> psutil.Popen:
        (agent,) = free_ports(1)
        # A folder of its own, as on another machine: nodes that share one get into each other's way.
        own = Path(self._folder, f"{next(self._numbers)}")
        command = [*_RAY, "start", "--block", "--node-ip-address=127.0.0.1", f"--object-store-memory={STORE}"]
        command += [f"--temp-dir={own}", f"--dashboard-agent-listen-port={agent}", *options]
        path = own.with_suffix(".log")
        with path.open("w") as log:
            process = psutil.Popen(command, env=self.environment, stdout=log, stderr=log)
        try:
            while "Ray runtime started" not in path.read_text():
                if process.poll() is not None:
                    raise RuntimeError(f"A node did not start:\n{path.read_text()}")
                time.sleep(0.1)
        except BaseException:
            _kill(process)
            raise
        return process


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _family(node: psutil.Popen) -> list[psutil.Process]:
    try:
        return node.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _kill(node: psutil.Popen) -> None:
    for process in (*_family(node), node):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    node.wait()
