"""One fault of several kinds on a run of several nodes and on one of one machine, see `benchmarks/chaos.py`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.chaos import (
    ANYWHERE,
    PAIRS,
    SOMETIMES,
    Blow,
    blows_on_a_cluster,
    blows_on_one_machine,
    compare,
    differences,
    make_cluster,
    plan,
)
from cluster.records.reading import Records
from tests.support.faults import WINDOWS

# A few, since each costs a minute where the machine is slow: `benchmarks.chaos` has them all.
ON_A_CLUSTER: list[Blow] = [
    (("sampler killed", "reward actor paused"), None),
    (("weight store killed", "reward actor killed"), "publish"),
    (("learner killed",), "restore"),
    (("node lost",), None),
    (("driver killed",), "checkpoint"),
    (("object stores full",), None),
]
ON_ONE_MACHINE: list[Blow] = [
    (("driver killed",), None),
    (("driver: terminal closed",), "start"),
    (("learner killed", "driver: Ctrl-C"), "evaluation"),
]


def test_a_plan_depends_on_its_seed_alone_and_misses_nothing() -> None:
    blows = blows_on_a_cluster(45)
    faults = plan(blows, seed=0)
    assert faults == plan(blows, seed=0) != plan(blows, seed=1)
    assert sorted((fault.kinds, fault.window or "") for fault in faults) == sorted((k, w or "") for k, w in blows)
    assert {((kind,), window) for kind in ANYWHERE for window in WINDOWS} < set(blows)
    assert {kinds for kinds, window in blows if window is None} >= {(kind,) for kind in SOMETIMES}
    assert {kinds for kinds, _ in blows} > set(PAIRS)
    assert {window for _, window in blows_on_one_machine(15)} == {None, *WINDOWS}


@pytest.mark.slow
def test_nothing_is_lost_doubled_or_changed_by_faults_of_every_kind(tmp_path: Path) -> None:
    with closing(make_cluster()) as site:
        recoveries, wrong, _ = compare(site, tmp_path, plan(ON_A_CLUSTER, seed=0))
    assert len(recoveries) == len(ON_A_CLUSTER)
    assert wrong == []
    expected, found = Records(tmp_path / "undisturbed"), Records(tmp_path / "disturbed")
    next(iter((found.path / "samples.parquet").glob("*.parquet"))).unlink()
    assert differences(expected, found, len(expected.metrics()["loss"])) != []


@pytest.mark.slow
def test_no_end_of_a_driver_on_one_machine_leaves_anything_or_costs_anything(tmp_path: Path) -> None:
    recoveries, wrong, _ = compare(None, tmp_path, plan(ON_ONE_MACHINE, seed=0))
    assert len(recoveries) == len(ON_ONE_MACHINE)
    assert wrong == []
