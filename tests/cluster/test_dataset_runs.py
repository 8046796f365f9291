"""Runs on a dataset with real actors: the same weights however many of them read, and wherever a run goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from cluster.config import load_config
from cluster.crew.crew import dismiss, make_crew
from cluster.crew.placement import Placement
from cluster.loop import train
from cluster.records.display import Display
from cluster.records.rundir import RunDirectory
from learner import checkpoint
from rewards.people.pick_a_pic import write
from rewards.people.shapes_pairs import make_pair
from tests.support.documented import undocumented

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

PLACEMENT = Placement({"num_cpus": 0}, {"num_cpus": 0}, {"num_cpus": 0})


@pytest.fixture(scope="module")
def settings(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file: 12 rows an iteration, of 40 with ties and corrupt ones, so that four iterations are an epoch."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    for number in range(2):
        rows = (make_pair(20 * number + row, ties=0.2, corrupt=0.1) for row in range(20))
        write(folder / "data" / f"train-{number}.parquet", rows, rows=7)
    (folder / "config.yaml").write_text(f"""
iterations: 4
policy: {{model: {tiny_pipeline}, device: cpu, steps: 4, lora_rank: 2, lora_alpha: 2, prompt_windows: 2}}
objective: {{name: rwr, among: group, updates: 2}}
data: {{path: {folder}/data, split: train, pairs: 12, max_corrupt: 0.5}}
prompts: {{train: {folder}/prompts.txt}}
rewards: {{jpeg_compressibility: {{weight: 1.0}}, shapes_gold: {{weight: 0.0}}}}
samplers: {{request_size: 6}}
learner: {{lr: 0.01}}
evaluation: {{every: 0, samples: 2, features: null}}
checkpoints: {{every: 2}}
""")
    return folder / "config.yaml"


def carry_out(settings: Path, folder: Path, *overrides: str) -> RunDirectory:
    run = RunDirectory.create(load_config(settings, [f"folder={folder}", "name=run", *overrides]))
    go_on(run)
    return run


def go_on(run: RunDirectory) -> None:
    crew = make_crew(run.config, PLACEMENT)
    with Display(Console(quiet=True), run.config.iterations) as display:
        train(run.config, crew, run, display)
    dismiss(crew)


def adapter(run: RunDirectory) -> dict[str, np.ndarray]:
    return load_file(checkpoint.newest(run.checkpoints) / "pytorch_lora_weights.safetensors")


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def undisturbed(settings: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    return carry_out(settings, tmp_path_factory.mktemp("undisturbed"))


def test_every_row_is_accounted_for_and_every_figure_is_documented(undisturbed: RunDirectory) -> None:
    assert undocumented(undisturbed.metrics()) == []
    metrics = {name: [value for _, value in values] for name, values in undisturbed.metrics().items()}
    left = [rows - sum(rest) for rows, *rest in zip(
        *(metrics[f"data/{name}"] for name in ("rows", "corrupt", "ties", "unlabelled", "long")), strict=True
    )]  # fmt: skip
    assert metrics["data/rows"] == [12] * 4
    assert metrics["samples"] == [2 * pairs for pairs in left]
    assert min(sum(metrics["data/corrupt"]), sum(metrics["data/ties"])) > 0
    assert metrics["score/label"] == [0.5] * 4
    assert metrics["images_drawn"] == metrics["reward_queries"] == metrics["dropped"] == metrics["staleness"] == [0] * 4
    assert len(metrics["eval/train/shapes_gold"]) == 2


def test_the_adapter_is_the_same_bit_for_bit_however_many_read_and_how_far_ahead(
    settings: Path, undisturbed: RunDirectory, tmp_path: Path
) -> None:
    other = carry_out(settings, tmp_path, "samplers.count=3", "data.ahead=0")
    assert same(adapter(other), adapter(undisturbed))
    assert other.metrics()["data/ties"] == undisturbed.metrics()["data/ties"]


def test_a_resumed_run_is_the_same_bit_for_bit(settings: Path, undisturbed: RunDirectory, tmp_path: Path) -> None:
    shutil.copytree(undisturbed.path, tmp_path / "run")
    run = RunDirectory.resume(tmp_path / "run")
    shutil.rmtree(checkpoint.list_all(run.checkpoints)[-1])
    before = adapter(run)
    go_on(run)
    run.release()
    assert not same(before, adapter(undisturbed))
    assert same(adapter(run), adapter(undisturbed))


def test_rewards_can_label_what_people_have_not(settings: Path, undisturbed: RunDirectory, tmp_path: Path) -> None:
    run = carry_out(settings, tmp_path, "data.labels=rewards", "iterations=2")
    metrics = {name: [value for _, value in values] for name, values in run.metrics().items()}
    assert metrics["data/ties"] == [0, 0]
    assert metrics["samples"] == [2 * (12 - corrupt) for corrupt in metrics["data/corrupt"]]
    assert metrics["reward_queries"][-1] == sum(metrics["samples"])
    assert "score/label" not in metrics
    assert np.isfinite(metrics["score/jpeg_compressibility"]).all()
    assert not same(adapter(run), adapter(undisturbed))
