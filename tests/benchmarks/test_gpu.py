"""The benchmark of a GPU, at the size of a CPU: every line is printed."""

from __future__ import annotations

import re

import pytest

from benchmarks.gpu.__main__ import main


def test_every_figure_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny", "--pictures", "2", "--micro-batch", "2", "--steps", "3"]) == 0
    said = capsys.readouterr().out
    for line in (
        r"sampler: \S+ images/s, \d+\.\d\d of diffusers' pipeline",
        r"learner: \S+ transitions/s, 2 at a time",
        r"sampler's pass: estimated \d+ MB at most, too little",
        r"learner's pass: estimated \d+ MB at most, too little",
    ):
        assert re.search(line, said), line
