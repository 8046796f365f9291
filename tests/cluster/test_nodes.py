"""A run on several Ray nodes, each in processes of its own: nodes are lost, join and leave, and nothing changes."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cluster.records.rundir import RunDirectory
from learner import checkpoint
from tests.support.nodes import Cluster

pytestmark = pytest.mark.slow

Submit = Callable[[str, Sequence[str]], subprocess.Popen]
WORKER = ("--num-cpus=1", "--labels=part=worker")
# One sampler is reserved, the other joins when it can; there is room for one on each worker.
ROLES = ["samplers.min_count=1", "samplers.labels={part: worker}"]
ROLES += [f"{role}={{cpus: 1, labels: {{part: head}}}}" for role in ("learner", "reward_actors")]
# The run that is stopped early was to be longer than the one that it is compared with.
ROLES += ["learner.lr_schedule=constant"]


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    """A head that has room for the learner and the rewards, and two workers."""
    with closing(Cluster("--num-cpus=2", "--labels=part=head", jobs=True)) as cluster:
        for _ in range(2):
            cluster.add(*WORKER)
        yield cluster


def wait_until_acting(run: RunDirectory, job: subprocess.Popen, samplers: int, iterations: int) -> int:
    """Wait for so many new iterations in a row in which exactly so many samplers acted; returns the last one."""
    first = None
    while job.poll() is None:
        acting: dict[int, int] = {}
        if (run.path / "metrics.parquet").exists():
            for name, values in run.metrics().items():
                if re.fullmatch(r"sampler/sampler-\d/images", name):
                    for iteration, _ in values:
                        acting[iteration] = acting.get(iteration, 0) + 1
        last = max(acting, default=0)
        first = last if first is None else first
        newest = [acting[i] for i in sorted(acting) if i > max(first, last - iterations)]
        if len(newest) == iterations and set(newest) == {samplers}:
            return last
        time.sleep(0.2)
    raise AssertionError(job.stdout and job.stdout.read())


def adapter(run: RunDirectory) -> dict[str, np.ndarray]:
    return load_file(checkpoint.newest(run.checkpoints) / "pytorch_lora_weights.safetensors")


def test_nodes_may_be_lost_join_and_leave_and_the_weights_are_those_of_an_undisturbed_run(
    submit: Submit, head: Cluster, tmp_path: Path
) -> None:
    job = submit("disturbed", [*ROLES, "iterations=100000", "checkpoints.every=5"])
    run = RunDirectory(tmp_path / "disturbed")
    wait_until_acting(run, job, samplers=2, iterations=3)
    head.lose(head.nodes[0])
    wait_until_acting(run, job, samplers=1, iterations=3)
    head.add(*WORKER)
    wait_until_acting(run, job, samplers=2, iterations=3)
    head.leave(head.nodes[0])
    wait_until_acting(run, job, samplers=1, iterations=3)
    assert head.ray("job", "stop", "disturbed").returncode == 0
    said = job.communicate(timeout=120)[0]
    done = checkpoint.verify(checkpoint.newest(run.checkpoints))
    assert [iteration for iteration, _ in run.metrics()["loss"]] == [*range(1, done + 1)], said
    plan = dict(re.findall(r"^\S+ \((\w{6})\): (.*)$", said, flags=re.MULTILINE))
    assert sorted(plan.values()) == ["learner-0, reward-jpeg_compressibility-shapes_gold-0", "sampler-0"]

    job = submit("straight", [*ROLES, f"iterations={done}"])
    said = job.communicate(timeout=600)[0]
    assert job.returncode == 0, said
    straight = RunDirectory(tmp_path / "straight")
    assert (straight.path / "report.html").is_file()
    ours, theirs = adapter(run), adapter(straight)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
