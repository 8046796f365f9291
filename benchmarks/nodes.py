"""A Ray cluster of several nodes on this machine: `ray start` in processes of their own, on loopback."""

from __future__ import annotations

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
_SETTINGS = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Objects go through the stores, however small: so a node takes with it what it held. And its loss is noticed soon.
    "RAY_max_direct_call_object_size": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_raylet_start_wait_time_s": "180",
    "RAY_worker_niceness": "0",  # Ray's 15 would starve them on a machine that does something else too
}
_RAY = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--node-ip-address=127.0.0.1"]


class Cluster:
    """A head, where nothing but drivers can run, and worker nodes.

    Args:
        workers: How many.
        cpus: Of each, as Ray counts them.

    Attributes:
        environment: Of a process that is to join as a driver, by `address="auto"`.
        workers: The `ray start` processes of the worker nodes.
    """

    def __init__(self, workers: int, cpus: int) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Unix sockets below it have a length limit
        self._cpus, self._numbers = cpus, itertools.count()
        port, client = free_ports(2)
        self._address = f"127.0.0.1:{port}"
        joining = {"RAY_ADDRESS": self._address, "RAY_AUTH_TOKEN": secrets.token_hex(24)}
        self.environment = os.environ | _SETTINGS | joining
        head = ["--head", f"--port={port}", f"--ray-client-server-port={client}"]
        self._head = self._start(*head, "--num-cpus=0", "--include-dashboard=false")
        self.workers: list[psutil.Popen] = []
        for _ in range(workers):
            self.add_worker()

    def add_worker(self) -> None:
        """Start another node and wait until it has joined."""
        self.workers.append(self._start(f"--address={self._address}", f"--num-cpus={self._cpus}"))

    def kill_worker(self, number: int) -> None:
        """Kill every process of a node at once, as a loss of power does."""
        _kill(self.workers.pop(number))

    def processes(self) -> Iterator[psutil.Process]:
        """Every process of every node."""
        for node in (self._head, *self.workers):
            yield from _family(node)

    def close(self) -> None:
        """Kill all nodes."""
        for node in (*self.workers, self._head):
            _kill(node)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, *arguments: str) -> psutil.Popen:
        agent, metrics = free_ports(2)
        # A folder of its own, as on another machine: nodes that share one get into each other's way.
        own = Path(self._folder, f"{next(self._numbers)}")
        ports = f"--dashboard-agent-listen-port={agent}", f"--metrics-export-port={metrics}"
        command = [*_RAY, *ports, "--include-log-monitor=false", f"--temp-dir={own}", *arguments]
        command.append(f"--object-store-memory={STORE}")
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        path = own.with_suffix(".log")
        with path.open("w") as log:
            process = psutil.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        while "Ray runtime started" not in path.read_text():
            if process.poll() is not None:
                raise RuntimeError(f"A node did not start:\n{path.read_text()}")
            time.sleep(0.1)
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
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    node.wait()
