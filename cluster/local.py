"""`python -m cluster.local [config.yaml] [key=value ...]`: a run on this machine alone."""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
import threading
import time
from typing import Any

import psutil
import ray
import torch

from cluster.config import Config
from cluster.crew.capacity import UNITS
from cluster.crew.janitor import session_folder
from cluster.crew.placement import Placement
from cluster.errors import StartError
from cluster.run import main
from cluster.stopping import abandon, beginning

_GRACE = 5.0  # seconds to end in good order without Ray


def place(config: Config) -> Placement:
    """Start Ray on this machine alone, on loopback, and share its cores and GPUs out.

    Actors that take turns (a synchronous run) may each use every core; those that work at the same time must share, or
    they would wait for each other's threads. OMP_NUM_THREADS, where it is set, is how many cores the run has: several
    runs can share a machine. Nothing of Ray outlives this process, however it ends.

    Raises:
        StartError: If Ray does not start, as on a full disk.
    """
    threads = os.environ.get("OMP_NUM_THREADS", "")
    cores = int(threads) if threads.isdecimal() and int(threads) else os.cpu_count() or 1
    _start_ray()
    ranks = config.learner.ranks
    workers = config.samplers.count + config.reward_actors.count * len(config.environments) + ranks
    gpus = share_of_gpus(torch.cuda.device_count(), workers)
    together = config.samplers.max_staleness or config.data is not None
    at_once = config.samplers.count + (ranks if together else 0)
    share = max(1, cores // at_once)

    def options(threads: int) -> dict[str, Any]:
        # Ray would set one thread, and what OpenMP is told later does not undo all of that: 25 % slower.
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
        return {"num_cpus": 0, "num_gpus": gpus, "runtime_env": environment}

    return Placement(
        options(share),
        options(1),
        options(share if together else max(1, cores // ranks)),
        together=True,
    )


def share_of_gpus(gpus: int, workers: int) -> float:
    """What each of equal workers takes of a GPU: a fraction is a share of one device, so as many go on each.

    In Ray's ten-thousandths, rounded down, because seven times a rounded seventh are more than one GPU.
    """
    if not gpus:
        return 0.0
    together = math.ceil(workers / gpus)
    return UNITS // together / UNITS


def _start_ray() -> None:
    try:
        folder = session_folder()
        atexit.register(ray.shutdown)  # before the janitor comes
        with beginning():
            ray.init(
                address="local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
        daemons = [child for child in psutil.Process().children() if child.name() in ("raylet", "gcs_server")]
        node = ray.get_runtime_context().get_node_id()
        threading.Thread(target=_leave_with, args=(daemons, node), daemon=True).start()
    except Exception as error:
        said = f"{type(error).__name__}: {error}"
        raise StartError(
            f"Ray does not start on this machine ({said}). Where the machine is only busy, try again."
        ) from error


def _leave_with(daemons: list[psutil.Process], node: str) -> None:
    """End this process where Ray's own are gone and it cannot end by itself.

    A signal to everyone (`timeout`, systemd, Slurm) takes them along, and what then waits for Ray waits for minutes.
    """
    while all(_runs(daemon) for daemon in daemons):
        time.sleep(1)
    time.sleep(_GRACE)
    if ray.is_initialized() and ray.get_runtime_context().get_node_id() == node:
        abandon()


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


if __name__ == "__main__":
    sys.exit(main("python -m cluster.local", "Train on this machine alone; no cluster, no download.", place, None))
