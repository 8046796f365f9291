"""A job on a Ray head in its own processes, with token authentication: submitted, watched, stopped, as documented."""

from __future__ import annotations

import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.records.reading import Records
from cluster.records.telemetry import PHASES, exported_names
from learner import checkpoint
from tests.support.nodes import Cluster

pytestmark = pytest.mark.slow

Submit = Callable[[str, Sequence[str]], subprocess.Popen]


@pytest.fixture(scope="module", autouse=True)
def head() -> Iterator[Cluster]:
    """A fresh head."""
    with closing(Cluster("--num-cpus=4", jobs=True)) as cluster:
        yield cluster


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
    submit: Submit, head: Cluster, tmp_path: Path
) -> None:
    job = submit("whole", ["iterations=20"])
    seen: dict[str, list[tuple[dict[str, str], float]]] = {}
    processes: set[str] = set()
    while job.poll() is None:
        now = scrape(head.metrics)
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
    run = Records(tmp_path / "whole")
    assert [iteration for iteration, _ in run.metrics()["loss"]] == [*range(1, 21)]
    assert checkpoint.verify(checkpoint.newest(run.checkpoints)) == 20
    assert (run.path / "report.html").is_file()
    log = output.split("Tailing logs until the job exits")[1]
    assert len(re.findall(r"^iteration +\d+/20 ", log, flags=re.MULTILINE)) == 20
    assert "it/s]" not in log
    assert f"report: {run.path}/report.html" in log


def test_a_stopped_job_leaves_a_checkpoint_and_says_how_to_go_on(submit: Submit, head: Cluster, tmp_path: Path) -> None:
    job = submit("stopped", ["iterations=100000", "checkpoints.every=99999"])
    for line in job.stdout:  # type: ignore[union-attr]
        if line.startswith("iteration") and "7/" in line:
            break
    assert head.ray("job", "stop", "stopped").returncode == 0
    rest = job.communicate(timeout=60)[0]
    said = re.findall(r"^stopped by SIGTERM at (.*); continue with: (.*)$", rest, flags=re.MULTILINE)
    assert len(said) == 1, rest
    (newest,) = said
    assert newest[1] == f"python -m cluster.train --resume {tmp_path}/stopped"
    done = checkpoint.verify(Path(newest[0]))
    assert done >= 7
    assert [iteration for iteration, _ in Records(tmp_path / "stopped").metrics()["loss"]] == [*range(1, done + 1)]


def test_a_client_without_the_token_is_refused(head: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(head.environment, "RAY_AUTH_TOKEN", "0" * 48)
    refused = head.ray("job", "list")
    assert refused.returncode != 0
    assert "token" in refused.stderr + refused.stdout
