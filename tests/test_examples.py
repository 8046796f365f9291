"""A reward and a family are one file and one line, an objective also its import: `tests/examples/`, in a copy."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from shapes.networks import make_scheduler

ROOT = Path(__file__).parents[1]
PACKAGES = ("actors", "cluster", "configs", "learner", "rewards", "shapes")
ADDED = {  # file, and what gets a line: where, after which, and the line
    "objective": (
        "learner/objectives/reinforce.py",
        "learner/objectives/__init__.py",
        (
            ("from pydantic import Field\n", "from learner.objectives.reinforce import ReinforceConfig\n"),
            ("    PPODConfig\n", "    | ReinforceConfig\n"),
        ),
    ),
    "reward": (
        "rewards/brightness.py",
        "rewards/__init__.py",
        (("REWARDS = {\n", '    "brightness": "rewards.brightness:Brightness",\n'),),
    ),
    "family": (
        "actors/families/pixels.py",
        "actors/families/__init__.py",
        (("FAMILIES = {\n", '    "PixelDiffusionPipeline": "actors.families.pixels:PixelDiffusion",\n'),),
    ),
}
TRAIN = """
import sys
from pathlib import Path
import numpy as np
from actors.policy import Policy
from actors.rollout import rollout
from cluster.config import load_config
from cluster.prompts import make_requests, read_prompts
from learner.advantages import Advantages
from learner.batch import collate
from learner.learner import Learner
from rewards.actor import RewardActor

config = load_config(Path(sys.argv[1]))
policy, judge = Policy.load(config.policy), RewardActor(config.makers)
learner = Learner(config.learner, policy, config.objective.build())
plan = config.objective.build().plan(policy.transitions)
advantages = Advantages({"brightness": 1.0}, "group")
for iteration in range(8):
    requests = make_requests(
        read_prompts(config.prompts.train), 16, 16, seed=0, iteration=iteration, stored_steps=plan.stored_steps
    )
    sampled = [rollout(policy, request, learner.version) for request in requests]
    scores = np.concatenate([judge.score(pixels, r.prompts).values[0] for (pixels, _), r in zip(sampled, requests)])
    groups = np.concatenate([stored.prompt_index for _, stored in sampled])
    made, _ = advantages.of({"brightness": scores}, groups, [p for r in requests for p in r.prompts])
    learner.step(collate([stored for _, stored in sampled], made))
    print(scores.mean(), flush=True)
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the packages with the three examples added."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for example, (place, registry, lines) in ADDED.items():
        shutil.copy(ROOT / "tests" / "examples" / f"{example}.py", tmp_path / place)
        text = (tmp_path / registry).read_text()
        for before, line in lines:
            assert text.count(before) == 1
            text = text.replace(before, before + line)
        (tmp_path / registry).write_text(text)
    return tmp_path


def write_pixel_model(folder: Path) -> Path:
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=8, in_channels=3, out_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        cross_attention_dim=16, attention_head_dim=2, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).save_pretrained(folder / "unet")  # fmt: skip
    make_scheduler().save_pretrained(folder / "scheduler")
    index = {"_class_name": "PixelDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.slow
def test_an_objective_a_reward_and_a_family_are_one_file_and_their_lines_in_a_registry(copy: Path) -> None:
    (copy / "prompts.txt").write_text("a bright day\na dark night\n")
    (copy / "run.yaml").write_text(
        f"policy: {{model: {write_pixel_model(copy / 'model')}, device: cpu, steps: 6, guidance: 1.0}}\n"
        f"prompts: {{train: {copy}/prompts.txt, samples: 16}}\n"
        "rewards: {brightness: {}}\n"
        "objective: {name: reinforce}\n"
        "learner: {lr: 0.02, micro_batch: 64}\n"
        "evaluation: {features: null}\n"
        "samplers: {request_size: 16}\n"
    )
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(copy / "run.yaml")], cwd=copy, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    means = [float(line) for line in done.stdout.split()]
    assert sum(means[4:]) / 4 > sum(means[:4]) / 4 + 0.01
