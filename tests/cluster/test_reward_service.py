"""Runs whose reward is a server, beside one in process and one in an environment of its own; and one that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import cluster
from cluster.records.reading import Records
from rewards import make_reward
from rewards.actor import RewardActor
from rewards.canary import SHIPPED, Canary, read_picture
from rewards.environments import build

pytestmark = pytest.mark.slow

ROOT = Path(cluster.__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def server() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "rewards.serve", "--reward", "shapes_agreement", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.terminate()


def port_of(server: subprocess.Popen[str]) -> int:
    assert server.stdout
    line = next(line for line in server.stdout if line.startswith("serving"))
    return int(line.rpartition(":")[2])


def run(tiny_pipeline: Path, folder: Path, address: str, more: str = "") -> subprocess.CompletedProcess[str]:
    (folder / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    (folder / "config.yaml").write_text(f"""
name: run
folder: {folder}
iterations: 1
policy: {{model: {tiny_pipeline}, device: cpu, steps: 4, lora_rank: 2, lora_alpha: 2}}
objective: {{name: residual_nabla_db}}
prompts: {{train: {folder}/prompts.txt, held_out: {folder}/prompts.txt, samples: 2, per_iteration: null}}
rewards:
  remote:
    kind: "{address}"
    options: {{patience: 0.0}}
    canaries: [{{picture: {SHIPPED}, prompt: four blue stars, score: 2.714}}]
  shapes_agreement: {{weight: 0.0}}
  {more}
samplers: {{request_size: 2}}
evaluation: {{every: 0, samples: 2, held_out_samples: 2, features: remote}}
""")
    command = [sys.executable, "-m", "cluster.local", str(folder / "config.yaml")]
    return subprocess.run(command, env=ENVIRONMENT, cwd=folder, capture_output=True, text=True, check=False)


def test_one_reward_in_process_in_an_environment_of_its_own_and_over_grpc_agrees_with_itself(
    tiny_pipeline: Path, tmp_path: Path, server: subprocess.Popen[str]
) -> None:
    (tmp_path / "own.txt").write_text("wcwidth==0.2.13\n")
    apart = build(str(tmp_path / "own.txt"), tmp_path / "environment")
    isolated = f"isolated: {{kind: shapes_agreement, weight: 0.0, environment: {apart}}}"
    ended = run(tiny_pipeline, tmp_path, f"grpc://127.0.0.1:{port_of(server)}", isolated)
    assert ended.returncode == 0, ended.stderr
    metrics = Records(tmp_path / "run").metrics()
    for split in ("train", "held_out"):
        here = dict(metrics[f"eval/{split}/shapes_agreement"])
        assert set(here) == {0, 1}
        assert metrics[f"eval/{split}/distance"][0] == (0, 0.0)  # from the pretrained model, which it still is
        for elsewhere in ("remote", "isolated"):
            assert dict(metrics[f"eval/{split}/{elsewhere}"]) == pytest.approx(here, rel=1e-5)
    assert metrics["dropped"] == [(1, 0.0)]


def test_a_server_of_another_reward_is_found_out_by_a_canary(
    server: subprocess.Popen[str],
) -> None:
    address = f"grpc://127.0.0.1:{port_of(server)}"
    actor = RewardActor({"remote": partial(make_reward, address)})
    canary = Canary(SHIPPED, "four blue stars", 1.0)
    (sentence,) = actor.wrong({"remote": [(canary, read_picture(SHIPPED))]})
    assert sentence.startswith("The reward 'remote' is not what it should be")
    assert "2.714, and 1 is known" in sentence


def test_a_required_reward_that_stays_away_ends_the_run_with_its_sentence(
    tiny_pipeline: Path, tmp_path: Path, server: subprocess.Popen[str]
) -> None:
    port = port_of(server)
    server.terminate()
    server.wait()
    ended = run(tiny_pipeline, tmp_path, f"grpc://127.0.0.1:{port}")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(
        f"error: The reward at grpc://127.0.0.1:{port} has not answered for 0 seconds, and its patience is 0; "
    )
    assert "Traceback" not in ended.stderr
