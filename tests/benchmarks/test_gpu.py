"""The benchmark of a GPU, at the size of a CPU: every line is printed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from diffusers import SD3Transformer2DModel

from benchmarks.gpu import updates
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.architectures import _SD35, NAMES
from benchmarks.gpu.gauges import ceiling, operations
from benchmarks.overhead import Measured
from cluster.config import Config


@pytest.mark.parametrize("architecture", ["tiny", "tiny_sdxl", "tiny_sd35"])
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


def test_stable_diffusion_35_medium_has_its_published_size() -> None:
    """Of its card: 2.5 billion numbers, those of the positions among them."""
    with torch.device("meta"):
        network = SD3Transformer2DModel(**_SD35["transformer"])
    assert sum(tensor.numel() for tensor in network.state_dict().values()) == pytest.approx(2.5e9, rel=0.02)


TINY = [
    "policy.device=cpu", "policy.steps=5", "prompts.per_iteration=2", "prompts.samples=2", "samplers.request_size=4",
]  # fmt: skip


@pytest.mark.parametrize(("name", "networks"), [("ddpo_pytorch", "tiny"), ("miles_diffusion", "tiny_sd35")])
def test_whole_updates_stand_beside_what_is_reported(
    name: str, networks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert updates.main([name, *TINY, "--networks", networks]) == 0
    said = capsys.readouterr().out
    assert f"{name} with {networks} on " in said
    assert "; 4 images an update\n" in said
    found = re.search(r"sampler (\S+) images/s, learner (\S+), both by turns (\S+); reported: (\S+) on an \w+ ", said)
    assert found is not None, said
    sampler, learner, both = (float(number) for number in found.groups()[:3])
    assert 1 / both == pytest.approx(1 / sampler + 1 / learner, rel=0.02)
    reported = {"ddpo_pytorch": 256 * 100 / (4 * 3600 * 8), "miles_diffusion": 128 / 59 / 2}
    assert float(found[4]) == pytest.approx(reported[name], rel=0.02)


def test_the_loop_is_measured_by_turns_and_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Config] = []

    def whole_loop(config: Config) -> Measured:
        seen.append(config)
        return Measured(2.0 - config.samplers.max_staleness / 2, {}, [])

    monkeypatch.setattr(updates, "whole_loop", whole_loop)
    monkeypatch.setattr(updates, "by_turns", lambda config: (1.0, 1.0))
    assert updates.main(["ddpo_pytorch", *TINY, "--networks", "tiny", "--overlap"]) == 0
    assert [config.samplers.max_staleness for config in seen] == [0, 1]
    assert seen[0].model_copy(update={"samplers": seen[1].samplers}) == seen[1]
    assert "2 images/s by turns, 2.67 at once with max_staleness=1, 1.33 times as many" in capsys.readouterr().out


def test_a_setting_that_there_is_not_is_refused_before_networks_are_written(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        updates.main(["ddpo_pytorch", "learner.lrr=1"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: ")
    assert {reported.networks for reported in updates.SETTINGS.values()} <= set(NAMES)
