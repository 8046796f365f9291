"""Reward actors in environments of their own, in real runs; and the one sentence that a run ends with without them."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from ray.exceptions import RuntimeEnvSetupError

from cluster.crew.pool import Pool
from cluster.crew.runtime_envs import runtime_env, why
from cluster.errors import StartError
from rewards.environments import build

# A user's own reward: it needs a package that the driver does not have, and an older numpy than the driver's.
OWN_REWARD = '''
import sys
import torch
from rewards.reward import Reward

class Words(Reward):
    """Brightness of the image, plus the width of the prompt as a package of its own counts it."""

    differentiable = True

    def __init__(self, fails_on="nothing"):
        import numpy
        import wcwidth
        assert numpy.__version__ == "2.2.6", numpy.__version__
        assert not {"diffusers", "transformers", "peft"} & set(sys.modules)
        self.width, self.fails_on = wcwidth.wcswidth, fails_on

    def score(self, images, prompts):
        if self.fails_on in prompts:
            raise RuntimeError("cannot judge this")
        return images.mean((1, 2, 3)) + torch.tensor([float(self.width(prompt)) for prompt in prompts])
'''


@pytest.fixture(scope="module")
def user(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: a reward in one file, its requirements, prompts and a config."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "own_reward.py").write_text(OWN_REWARD)
    (folder / "own.txt").write_text("# width of text\nwcwidth==0.2.13\nnumpy==2.2.6\n")
    (folder / "prompts.txt").write_text("a red circle\nfour blue stars\n")
    (folder / "config.yaml").write_text(f"""
iterations: 1
policy: {{model: {tiny_pipeline}, device: cpu, steps: 4, lora_rank: 2, lora_alpha: 2}}
prompts: {{train: prompts.txt, held_out: prompts.txt, samples: 4, per_iteration: null}}
samplers: {{request_size: 4}}
evaluation: {{samples: 4, held_out_samples: 4, features: null}}
rewards:
  jpeg_compressibility: {{}}
  width: {{kind: "own_reward:Words", weight: 0.5, environment: own.txt}}
""")
    return folder


def run(user: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.local", "config.yaml", *overrides]
    return subprocess.run(command, cwd=user, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_run_with_rewards_in_three_environments_one_of_which_fails(user: Path) -> None:
    built = build(str(user / "own.txt"), user / "built")
    fragile = f"kind: 'own_reward:Words', weight: 0, environment: {built}, options: {{fails_on: four blue stars}}"
    done = run(user, "name=run", f"rewards.fragile={{{fragile}}}")
    assert done.returncode == 0, done.stdout + done.stderr
    samples = pq.read_table(user / "runs" / "run" / "samples.parquet").to_pylist()
    assert {sample["prompt"] for sample in samples} == {"a red circle", "four blue stars"}
    for sample in samples:
        assert sample["jpeg_compressibility"] < 0
        assert 0 <= sample["width"] - len(sample["prompt"]) <= 1
        failed = sample["prompt"] == "four blue stars"
        assert np.isnan(sample["fragile"]) if failed else sample["fragile"] == sample["width"]


@pytest.mark.slow
def test_an_environment_that_cannot_be_installed_ends_the_run_with_the_cause(
    user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNTIME_ENV_RETRY_TIMES", "1")  # of Ray's agent, which would try three times
    (user / "bad.txt").write_text("not a requirement\n")
    done = run(user, "name=bad", "rewards.width.environment=bad.txt")
    assert done.returncode == 1
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert sentence.startswith("error: The actor of the rewards width cannot start: its environment could not be ins")
    assert "Invalid requirement: 'not a requirement'" in sentence


def test_the_cause_of_a_failed_installation_is_what_pip_calls_an_error() -> None:
    said = """Run cmd[13] failed with the following details.
Last 50 lines of stdout:
    Looking in indexes: https://example.org/simple
    ERROR: Could not find a version that satisfies the requirement no-such-package==6.3.1 (from versions: none)
    ERROR: No matching distribution found for no-such-package==6.3.1
"""
    cause = "its environment could not be installed (No matching distribution found for no-such-package==6.3.1)."
    assert why(RuntimeEnvSetupError(said)) == cause
    assert why(RuntimeEnvSetupError("The agent is gone.\n")).endswith("(The agent is gone).")


def test_a_requirements_file_is_installed_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("# mine\nwcwidth==0.2.13\n")
    pip = runtime_env(str(tmp_path / "mine.txt"))["pip"]
    assert pip["packages"] == ["# mine", "wcwidth==0.2.13"]
    assert "--no-deps" in pip["pip_install_options"]


def test_an_interpreter_is_taken_if_it_can_run_a_reward_actor(tmp_path: Path) -> None:
    assert runtime_env(sys.executable) == {"py_executable": sys.executable}
    assert runtime_env(None) == {}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'No module named ray' >&2; exit 1", "No module named ray"),
        (f"echo {platform.python_version()} 1.0", f"{platform.python_version()} 1.0"),
        ("exit 3", "nothing"),
    ],
)
def test_any_other_interpreter_is_refused_before_ray_waits_for_it(tmp_path: Path, script: str, said: str) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    with pytest.raises(StartError, match=f"{python} cannot run a reward actor.*it said: {said}"):
        runtime_env(str(python))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_an_actor_that_cannot_load_its_model_ends_the_run_with_the_cause() -> None:
    class Broken:  # local, so that Ray ships it by value
        def __init__(self) -> None:
            raise FileNotFoundError("There is no checkpoint here.\nGive another one.")

        def ready(self) -> None:
            pass

    actor: Any = ray.remote(Broken)
    with pytest.raises(StartError) as caught:
        Pool("judge", [actor.options(num_cpus=0, max_restarts=-1).remote()], max_deaths=5).start(1, patience=60)
    sentence = "The judge cannot start: FileNotFoundError: There is no checkpoint here. Give another one."
    assert str(caught.value) == sentence
