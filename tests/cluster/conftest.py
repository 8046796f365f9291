"""Fixtures of the driver's tests: one Ray for most, nodes in processes of their own for some, quick configurations."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
import ray
from diffusers import DDIMScheduler

import cluster
from benchmarks.nodes import free_ports
from cluster.config import Config, load_config


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray on loopback, with room for a handful of small actors."""
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a driver reads of a pipeline: that it is there, and its scheduler."""
    folder = tmp_path_factory.mktemp("model")
    (folder / "model_index.json").write_text("{}")
    DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def base(tmp_path: Path, model_folder: Path) -> list[str]:
    """Overrides of a run that asks for 3 prompts x 4 samples and writes below `tmp_path`."""
    (tmp_path / "train.txt").write_text("a red circle\na blue square\na green cross\n")
    (tmp_path / "held_out.txt").write_text("a red cross\na blue circle\n")
    return [
        f"folder={tmp_path / 'runs'}",
        f"policy.model={model_folder}",
        f"prompts.train={tmp_path / 'train.txt'}",
        f"prompts.held_out={tmp_path / 'held_out.txt'}",
        "prompts.samples=4",
        "prompts.per_iteration=null",
        "samplers.request_size=4",
    ]


@pytest.fixture
def make_config(base: list[str]) -> Callable[..., Config]:
    """Builds the configuration of `base` with further overrides."""
    return lambda *overrides: load_config(None, [*base, *overrides])


class RayNodes:
    """Nodes of one Ray cluster as `ray start` makes them, each in processes of its own, on loopback, with a token.

    Attributes:
        client: Environment of a client; METRICS is where the head's node exports them.
    """

    RAY = (sys.executable, "-m", "ray.scripts.scripts")

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Unix sockets below it have a length limit
        self._gcs, dashboard, self._metrics = free_ports(3)
        self._nodes: list[subprocess.Popen] = []
        self.client = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(24),
            # Objects go through the stores, however small, as images do: a node takes with it what it held.
            "RAY_max_direct_call_object_size": "1000",
            "RAY_metrics_report_interval_ms": "500",
            "RAY_health_check_period_ms": "1000",  # a lost node is noticed sooner
            "RAY_health_check_failure_threshold": "2",
            "RAY_raylet_start_wait_time_s": "120",  # and a busy machine is waited for
            "RAY_JOB_STOP_WAIT_TIME_S": "120",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
            "METRICS": f"http://127.0.0.1:{self._metrics}",
        }

    def head(self, *options: str) -> None:
        """Start the head, and wait until it takes jobs."""
        address = self.client["RAY_API_SERVER_ADDRESS"]
        (client,) = free_ports(1)
        ports = [f"--port={self._gcs}", f"--dashboard-port={address.rpartition(':')[2]}"]
        ports += [f"--metrics-export-port={self._metrics}", f"--ray-client-server-port={client}"]
        self._start("--head", "--dashboard-host=127.0.0.1", *ports, *options)
        deadline = time.time() + 120
        while self.ray("job", "list").returncode:
            assert time.time() < deadline, "The head takes no jobs."

    def add(self, *options: str) -> subprocess.Popen:
        """Start one more node, and wait until it has joined."""
        return self._start(f"--address=127.0.0.1:{self._gcs}", *options)

    def lose(self, node: subprocess.Popen) -> None:
        """Kill -9 every process of a node at once."""
        processes = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes, timeout=30)

    def ray(self, *words: str) -> subprocess.CompletedProcess:
        """Run a command of Ray's as a client."""
        return subprocess.run([*self.RAY, *words], env=self.client, capture_output=True, text=True)

    def stop(self) -> None:
        """End the nodes, the head last."""
        for node in reversed(self._nodes):
            node.terminate()  # it ends what it started
            node.wait(timeout=60)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, *options: str) -> subprocess.Popen:
        (agent,) = free_ports(1)
        command = [*self.RAY, "start", "--block", "--node-ip-address=127.0.0.1", "--object-store-memory=200000000"]
        # With a folder of its own, as on another machine: nodes that share one unpack a job's code over each other.
        own = Path(self._folder, f"{len(self._nodes)}")
        command += [f"--temp-dir={own}", f"--dashboard-agent-listen-port={agent}", *options]
        path = own.with_suffix(".log")
        with path.open("w") as log:
            process = subprocess.Popen(command, env=self.client, stdout=log, stderr=log, start_new_session=True)
        self._nodes.append(process)
        while "Ray runtime started" not in path.read_text():
            assert process.poll() is None, path.read_text()
            time.sleep(0.1)
        return process


@pytest.fixture(scope="module")
def ray_nodes() -> Iterator[RayNodes]:
    """A cluster that the module starts as it needs it."""
    nodes = RayNodes()
    yield nodes
    nodes.stop()


@pytest.fixture
def submit(
    ray_nodes: RayNodes, tiny_pipeline: Path, tmp_path: Path
) -> Callable[[str, Sequence[str]], subprocess.Popen]:
    """Submits a run of 2 prompts x 4 samples with the words of the documentation; its output is the job's log."""
    (tmp_path / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    (tmp_path / "tiny.yaml").write_text(f"""
folder: {tmp_path}
policy: {{model: {tiny_pipeline}, device: cpu, steps: 4, lora_rank: 2, lora_alpha: 2}}
prompts: {{train: {tmp_path}/prompts.txt, held_out: {tmp_path}/prompts.txt, samples: 4, per_iteration: null}}
rewards: {{jpeg_compressibility: {{weight: 1.0}}, shapes_gold: {{weight: 0.0}}}}
samplers: {{count: 2, request_size: 2}}
evaluation: {{every: 0, samples: 2, held_out_samples: 2, features: null}}
""")

    def start(name: str, overrides: Sequence[str]) -> subprocess.Popen:
        command = [*RayNodes.RAY, "job", "submit", "--submission-id", name, "--working-dir", "."]
        command += ["--runtime-env", "deploy/runtime_env.yaml", "--", "python", "-m", "cluster.train"]
        command += [f"{tmp_path}/tiny.yaml", f"name={name}", *overrides]
        return subprocess.Popen(
            command,
            cwd=Path(cluster.__file__).parents[1],
            env=ray_nodes.client,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start
