"""One fault of several kinds on a run of several nodes: what `python -m benchmarks.chaos` does at length."""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.chaos import differences, disturbed, iterations_for, make_cluster, plan, undisturbed
from benchmarks.tiny import write_config
from cluster.rundir import RunDirectory

KINDS = ("sampler killed", "reward actor paused", "learner killed", "node lost", "driver killed", "object stores full")


def test_a_plan_depends_on_its_seed_alone_and_misses_no_kind() -> None:
    faults = plan(KINDS, seed=0)
    assert faults == plan(KINDS, seed=0) != plan(KINDS, seed=1)
    assert sorted(fault.kind for fault in faults) == sorted(KINDS)
    assert all(a.iteration < b.iteration for a, b in pairwise(faults))


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_changed_by_faults_of_every_kind(tmp_path: Path) -> None:
    faults = plan(KINDS, seed=0)
    iterations = iterations_for(faults)
    expected, found = RunDirectory(tmp_path / "undisturbed"), RunDirectory(tmp_path / "disturbed")
    with closing(make_cluster()) as site:
        config = write_config(tmp_path)
        undisturbed(site, config, expected.path, iterations)
        recoveries = disturbed(site, config, found.path, iterations, faults)
    assert len(recoveries) == len(KINDS)
    assert differences(expected, found, iterations) == []
    next(iter((found.path / "samples.parquet").glob("*.parquet"))).unlink()
    assert differences(expected, found, iterations) != []
