"""Actors that only sleep take the time that they are told, and benchmarks.scale is driven by such actors of Ray."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.sleepers import REWARDS, Judge, Learner, Sampler

ROOT = Path(__file__).parents[2]
SCALE = """
from benchmarks.scale import __main__ as scale
scale.THROUGH_RAY, scale.RAY_REQUESTS, scale.RAY_RATE, scale.PROCESSES = (2,), 32, 200, 1
scale.main(["--samplers", "2", "--prompts", "64", "--requests", "16", "--rate", "2000"])
"""


def test_it_takes_its_time_and_no_longer() -> None:
    slept: list[float] = []
    even = Sampler("even", 2.0, slept.append)
    assert [even.sleep() for _ in range(3)] == slept == [2.0] * 3
    odd = Sampler("odd", 2.0, slept.append, 0.5)
    taken = [odd.sleep() for _ in range(50)]
    assert taken[0] < 2.0  # they do not begin together
    assert all(1 <= seconds <= 3 for seconds in taken[1:])
    assert len(set(taken)) == 50
    judge = Judge("judge", 3.0, slept.append)
    assert judge.score(None, ["a", "b"]).values.shape == (len(REWARDS), 2)  # type: ignore[arg-type]
    learner = Learner("learner", 4.0, slept.append)
    update, weights = learner.update({})
    assert (update.version, weights.version, update.seconds) == (1, 1, 4.0)
    assert slept[-2:] == [3.0, 4.0]


@pytest.mark.slow
def test_sleepers_are_driven_through_ray() -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCALE],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "180"},  # of a busy machine
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    apart = re.search(r"2 samplers through Ray: (\S+) ms a request, of which (\S+) ms are the control", ran.stdout)
    assert apart is not None, ran.stdout
    assert all(0 < float(milliseconds) < 1000 for milliseconds in apart.groups())
    assert re.search(r"with Ray's calls a request costs \S+ ms", ran.stdout)
