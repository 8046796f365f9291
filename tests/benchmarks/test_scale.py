"""The driver's costs at a small size, in this process: every request is counted, and none is left over."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
from ray.exceptions import GetTimeoutError

from benchmarks.scale.__main__ import main
from benchmarks.scale.driving import Size, with_stand_ins, words
from benchmarks.scale.standins import StandIn, in_place_of_ray
from cluster.config import read_config


class Sleeper:
    def __init__(self, sleep) -> None:  # type: ignore[no-untyped-def]
        self.sleep = sleep

    def work(self, seconds: float) -> tuple[int, str]:
        self.sleep(seconds)
        return 1, "two"


def test_calls_of_a_stand_in_follow_one_another_and_are_answered_in_their_time() -> None:
    with in_place_of_ray() as clock:
        import ray

        actor = StandIn(clock, Sleeper)
        began = time.monotonic()
        first, second = (actor.work.options(num_returns=2).remote(0.2) for _ in range(2))
        assert time.monotonic() - began < 0.15  # nobody waits for a call
        with pytest.raises(GetTimeoutError):
            ray.get(second[0], timeout=0)
        assert ray.get(first) == [1, "two"]
        assert time.monotonic() - began >= 0.2
        assert ray.wait([second[0]], timeout=60) == ([second[0]], [])
        assert time.monotonic() - began >= 0.4
        assert actor.waits == []
        ray.get(actor.work.remote(0.01))
        ((_, late, idle),) = actor.waits
        assert late >= idle >= 0


def test_a_run_is_driven_to_its_end_and_measured(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("".join(f"thing {number}\n" for number in range(100)))
    size = Size(samplers=8, judges=2, requests=32, rate=2000)
    cost = with_stand_ins(read_config(None, words(tmp_path, tmp_path / "prompts.txt", size)), size)
    assert 0 < cost.cpu < 1
    assert cost.latencies.size > 32
    assert np.all(cost.latencies >= 0)
    assert 0 <= cost.idle <= 1
    assert size.seconds == 8 / 2000


def test_the_command_prints_a_line_a_size(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--samplers", "8", "16", "--prompts", "64", "--requests", "16", "--rate", "2000", "--without-ray"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["8", "16"]
    assert re.fullmatch(r"a request at 16 samplers over one at 8: \d+\.\d\d", lines[3])
