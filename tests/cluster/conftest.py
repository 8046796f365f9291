"""Fixtures of the driver's tests: one Ray for most, nodes in processes of their own for some, quick configurations."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import ray

import cluster
import cluster.run
from cluster.config import Config, load_config
from cluster.records.rundir import RunDirectory
from learner import checkpoint
from tests.support import command
from tests.support.nodes import Cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Ray on loopback, with room for a handful of small actors."""
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture
def base(tmp_path: Path, tiny_pipeline: Path) -> list[str]:
    """Overrides of a run that asks for 3 prompts x 4 samples and writes below `tmp_path`."""
    (tmp_path / "train.txt").write_text("a red circle\na blue square\na green cross\n")
    (tmp_path / "held_out.txt").write_text("a red cross\na blue circle\n")
    return [
        "rewards={shapes_agreement: {}, shapes_gold: {weight: 0}}",
        "evaluation.features=shapes_agreement",
        f"folder={tmp_path / 'runs'}",
        f"policy.model={tiny_pipeline}",
        f"prompts.train={tmp_path / 'train.txt'}",
        f"prompts.held_out={tmp_path / 'held_out.txt'}",
        "prompts.samples=4",
        "prompts.per_iteration=null",
        "samplers.request_size=4",
    ]


@pytest.fixture
def make_config(base: list[str]) -> Callable[..., Config]:
    """Builds the configuration of `base` with further overrides."""
    return lambda *overrides: load_config(None, [*base, *overrides])


@pytest.fixture
def submit(head: Cluster, tiny_pipeline: Path, tmp_path: Path) -> Callable[[str, Sequence[str]], subprocess.Popen]:
    """Submits a run of 2 prompts x 4 samples to the module's head with the words of the documentation; its output is
    the job's log."""
    (tmp_path / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    (tmp_path / "tiny.yaml").write_text(f"""
folder: {tmp_path}
policy: {{model: {tiny_pipeline}, device: cpu, steps: 4, lora_rank: 2, lora_alpha: 2}}
prompts: {{train: {tmp_path}/prompts.txt, held_out: {tmp_path}/prompts.txt, samples: 4, per_iteration: null}}
rewards: {{jpeg_compressibility: {{weight: 1.0}}, shapes_gold: {{weight: 0.0}}}}
samplers: {{count: 2, request_size: 2}}
evaluation: {{every: 0, samples: 2, held_out_samples: 2, features: null}}
""")

    def start(name: str, overrides: Sequence[str]) -> subprocess.Popen:
        command = ["ray", "job", "submit", "--submission-id", name, "--working-dir", "."]
        command += ["--runtime-env", "deploy/runtime_env.yaml", "--", "python", "-m", "cluster.train"]
        command += [f"{tmp_path}/tiny.yaml", f"name={name}", *overrides]
        return subprocess.Popen(
            command,
            cwd=Path(cluster.__file__).parents[1],
            env=head.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Ray must not start; a Ray that other tests started must not stop; and nothing is written here."""
    monkeypatch.setattr(cluster.run.ray, "init", lambda **_: pytest.fail("Ray was started"))
    monkeypatch.setattr(cluster.run.ray, "shutdown", lambda: None)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs with arguments that must be refused; returns the one line on stderr."""

    def run(*arguments: str) -> str:
        assert command.main(*arguments, place=lambda config: pytest.fail("the run was started")) == 1
        output = capsys.readouterr().err
        assert output.startswith("error: ")
        assert output.count("\n") == 1
        assert output.endswith("\n")
        return output

    return run


@pytest.fixture
def run(make_config: Callable[..., Config]) -> RunDirectory:
    """A run of 8 iterations with checkpoints of iterations 0 and 5."""
    run = RunDirectory.create(make_config("name=mine", "iterations=8"))
    for iteration in (0, 5):
        with checkpoint.writing(run.checkpoints, iteration) as folder:
            (folder / "learner.pt").write_bytes(b"weights")
    return run


@pytest.fixture
def finished(make_config: Callable[..., Config]) -> RunDirectory:
    """A run that has done its 2 iterations."""
    run = RunDirectory.create(make_config("name=done", "iterations=2"))
    for iteration in (0, 2):
        run.add(iteration, {"eval/train/shapes_gold": 0.5}, {})
    with checkpoint.writing(run.checkpoints, 2) as folder:
        (folder / "learner.pt").write_bytes(b"weights")
    return run
