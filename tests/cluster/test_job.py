"""A job on a Ray head in its own processes, with token authentication: submitted, watched, stopped, as documented."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import cluster
from cluster.rundir import RunDirectory
from cluster.telemetry import PHASES, exported_names
from learner import checkpoint

pytestmark = pytest.mark.slow

ROOT = Path(cluster.__file__).parents[1]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
Submit = Callable[[str, Sequence[str]], subprocess.Popen]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """Environment of a client of a fresh head; METRICS is where its node exports them."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Unix sockets below it have a length limit
    gcs, dashboard, agent, metrics, client = free_ports(5)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(24),
        "RAY_metrics_report_interval_ms": "500",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    address = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}", "METRICS": f"http://127.0.0.1:{metrics}"}
    command = [*RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--metrics-export-port={metrics}", f"--ray-client-server-port={client}", f"--temp-dir={folder}"]
    command += ["--num-cpus=4", "--object-store-memory=200000000"]
    with open(f"{folder}.log", "w+") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.time() + 120
            while subprocess.run([*RAY, "job", "list"], env=environment | address, capture_output=True).returncode:
                log.seek(0)
                assert process.poll() is None, log.read()
                assert time.time() < deadline, log.read()
            yield environment | address
        finally:
            process.terminate()  # it ends what it started
            process.wait(timeout=60)
            shutil.rmtree(folder, ignore_errors=True)
            os.unlink(log.name)


@pytest.fixture
def submit(head: dict[str, str], tiny_pipeline: Path, tmp_path: Path) -> Submit:
    """Submits a run of 2 prompts x 4 samples with the words of the documentation; its output is the job's log."""
    (tmp_path / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    (tmp_path / "tiny.yaml").write_text(f"""
folder: {tmp_path}
policy: {{model: {tiny_pipeline}, device: cpu, steps: 4, lora_rank: 2, lora_alpha: 2}}
prompts: {{train: {tmp_path}/prompts.txt, held_out: {tmp_path}/prompts.txt, samples: 4}}
rewards: {{jpeg_compressibility: {{weight: 1.0}}, shapes_gold: {{weight: 0.0}}}}
samplers: {{count: 2, request_size: 2}}
evaluation: {{every: 0, samples: 2, held_out_samples: 2, features: null}}
""")

    def start(name: str, overrides: Sequence[str]) -> subprocess.Popen:
        command = [*RAY, "job", "submit", "--submission-id", name, "--working-dir", "."]
        command += ["--runtime-env", "deploy/runtime_env.yaml", "--", "python", "-m", "cluster.train"]
        command += [f"{tmp_path}/tiny.yaml", f"name={name}", *overrides]
        return subprocess.Popen(
            command, cwd=ROOT, env=head, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    return start


def scrape(url: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What a node exports now: (tags, value) by name; nothing before its agent is up."""
    try:
        with urllib.request.urlopen(f"{url}/metrics") as page:
            families = list(text_string_to_metric_families(page.read().decode()))
    except urllib.error.URLError:
        return {}
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for sample in (sample for family in families for sample in family.samples):
        found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_a_job_trains_exports_every_documented_metric_and_leaves_its_artefacts(
    submit: Submit, head: dict[str, str], tmp_path: Path
) -> None:
    job = submit("whole", ["iterations=20"])
    seen: dict[str, list[tuple[dict[str, str], float]]] = {}
    processes: set[str] = set()
    while job.poll() is None:
        now = scrape(head["METRICS"])
        if phases := [value for tags, value in now.get("ray_reinoise_training_phase", [])]:
            assert len(phases) == len(PHASES)
            assert sum(phases) <= 1
        seen |= now
        processes |= {tags["Component"] for tags, value in now.get("ray_component_rss_mb", []) if value > 50}
        time.sleep(0.2)
    output = job.stdout.read()  # type: ignore[union-attr]
    assert job.returncode == 0, output
    ours = {name: values for name, values in seen.items() if name.startswith("ray_reinoise")}
    assert set(ours) == exported_names()
    assert {tags["actor"] for tags, _ in ours["ray_reinoise_sampler_images_total"]} <= {"sampler-0", "sampler-1"}
    assert all(tags["run"] == "whole" for values in ours.values() for tags, _ in values)
    assert 1 <= ours["ray_reinoise_iteration"][0][1] <= 20
    assert ours["ray_reinoise_samples_total"][0][1] % 8 == 0
    assert 0 < ours["ray_reinoise_images_per_second"][0][1] < 1e4
    assert 0 < ours["ray_reinoise_publish_to_applied_seconds"][0][1] < 60
    assert {value for _, value in ours["ray_reinoise_restarts"]} == {0}
    for role in ("Sampler", "RewardActor", "LearnerActor"):
        assert any(name.startswith(f"ray::{role}") for name in processes)
    run = RunDirectory(tmp_path / "whole")
    assert [iteration for iteration, _ in run.metrics()["loss"]] == [*range(1, 21)]
    assert checkpoint.verify(checkpoint.newest(run.checkpoints)) == 20
    assert (run.path / "report.html").is_file()
    log = output.split("Tailing logs until the job exits")[1]
    assert len(re.findall(r"^iteration +\d+/20 ", log, flags=re.MULTILINE)) == 20
    assert "it/s]" not in log
    assert f"report: {run.path}/report.html" in log


def test_a_stopped_job_leaves_a_checkpoint_and_says_how_to_go_on(
    submit: Submit, head: dict[str, str], tmp_path: Path
) -> None:
    job = submit("stopped", ["iterations=100000", "checkpoints.every=99999"])
    for line in job.stdout:  # type: ignore[union-attr]
        if line.startswith("iteration") and "7/" in line:
            break
    subprocess.run([*RAY, "job", "stop", "stopped"], env=head, check=True, capture_output=True)
    rest = job.communicate(timeout=60)[0]
    said = re.findall(r"^stopped by SIGTERM at (.*); continue with: (.*)$", rest, flags=re.MULTILINE)
    assert len(said) == 1, rest
    (newest,) = said
    assert newest[1] == f"python -m cluster.train --resume {tmp_path}/stopped"
    done = checkpoint.verify(Path(newest[0]))
    assert done >= 7
    assert [iteration for iteration, _ in RunDirectory(tmp_path / "stopped").metrics()["loss"]] == [*range(1, done + 1)]


def test_a_client_without_the_token_is_refused(head: dict[str, str]) -> None:
    stranger = {**head, "RAY_AUTH_TOKEN": "0" * 48}
    refused = subprocess.run([*RAY, "job", "list"], env=stranger, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "token" in refused.stderr + refused.stdout
