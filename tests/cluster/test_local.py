"""A machine shared out: every actor finds a place on a GPU, in Ray's arithmetic; and nothing of Ray outlives a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.crew.capacity import UNITS, Demand, Node, assign
from cluster.local import share_of_gpus
from tests.support.tiny import write_config


@given(st.integers(1, 8), st.integers(1, 40))
def test_every_actor_finds_a_place_and_none_could_have_more(gpus: int, workers: int) -> None:
    def places(share: float) -> bool:
        units = round(share * UNITS)
        return 0 < units <= UNITS and gpus * (UNITS // units) >= workers

    share = share_of_gpus(gpus, workers)
    assert places(share)
    assert share == 1 or not places(share + 1 / UNITS)
    assign([Demand(f"actor-{i}", {"GPU": share}) for i in range(workers)], [Node("here", {"GPU": float(gpus)})])


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(0, 3, 0.0), (1, 3, 0.3333), (2, 3, 0.5), (3, 4, 0.5), (8, 3, 1)]
)
def test_shares(gpus: int, workers: int, share: float) -> None:
    assert share_of_gpus(gpus, workers) == share


ENDS: dict[str, tuple[Callable[[subprocess.Popen], None], int, str]] = {
    "everyone is told to end": (lambda driver: os.killpg(driver.pid, signal.SIGTERM), 143, "stopped by SIGTERM at "),
    "Ctrl-C twice": (
        lambda driver: [os.killpg(driver.pid, signal.SIGINT), time.sleep(0.1), os.killpg(driver.pid, signal.SIGINT)],  # type: ignore[arg-type, return-value, func-returns-value]
        130,
        "",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", ENDS)
def test_a_run_ends_in_a_sentence_and_leaves_nothing(how: str, tmp_path: Path) -> None:
    end, status, words = ENDS[how]
    rays = Path(tempfile.mkdtemp(dir="/tmp"))  # short: Unix sockets below it have a length limit
    driver = subprocess.Popen(
        [sys.executable, "-m", "cluster.local", str(write_config(tmp_path)), "name=run", "iterations=100000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"RAY_TMPDIR": str(rays)},
    )
    try:
        while not (tmp_path / "run" / "metrics.parquet" / "000003.parquet").exists():
            assert driver.poll() is None, driver.communicate()[1]
            time.sleep(0.05)
        family = psutil.Process(driver.pid).children(recursive=True)
        end(driver)
        said = driver.communicate(timeout=120)[1].strip()
    finally:
        driver.kill()
        driver.wait()
    assert driver.returncode == status, said
    if words:
        assert said.splitlines()[-1].startswith(words)
        assert f"--resume {tmp_path / 'run'}" in said.splitlines()[-1]
    psutil.wait_procs(family, timeout=15)
    assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    deadline = time.monotonic() + 15
    while list(rays.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    rays.rmdir()
