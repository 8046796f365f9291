"""The benchmark of a GPU, at the size of a CPU: every line is printed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.gauges import ceiling, operations


@pytest.mark.parametrize("architecture", ["tiny", "tiny_sdxl"])
def test_every_figure_is_printed(architecture: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--pictures", "2", "--micro-batch", "2", "--steps", "3", "--batches", "2", "--dtypes", "float32"]
    assert main([architecture, *words]) == 0
    said = capsys.readouterr().out
    for line in (
        r"sampler: \S+ images/s, \d+\.\d\d of diffusers' pipeline",
        r"learner: \S+ transitions/s, 2 at a time; \S+ TFLOP/s, \d\.\d\d of a matrix product's \S+",
        r"sampler's pass, float32, 2 at a time: estimated \d+ MB, too little",
        r"learner's pass, float32, 2 at a time: estimated \d+ MB, too little",
    ):
        assert re.search(line, said), line


@pytest.mark.slow
def test_weights_are_on_their_way_for_a_time() -> None:
    words = ["--pictures", "1", "--steps", "2", "--batches", "--dtypes", "--publication"]
    # A process of its own, since it starts Ray, which may run in this one.
    command = [sys.executable, "-m", "benchmarks.gpu", "tiny", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = re.search(r"weights: (\S+) MB, (\S+) s to publish, (\S+) s until", done.stdout)
    assert found is not None
    assert all(0 < float(number) < 60 for number in found.groups())


def test_operations_are_those_of_a_product() -> None:
    left, right = torch.ones(3, 5), torch.ones(5, 7)
    assert operations(lambda: left @ right) == 2 * 3 * 5 * 7
    assert ceiling(torch.device("cpu"), torch.float32) > 1e8
