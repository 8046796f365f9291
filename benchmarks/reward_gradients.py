"""Where reward gradients are best computed: in the learner's process, or in reward actors.

    python -m benchmarks.reward_gradients [key=value ...]

Times `score_and_grad` of the run's weighted reward on one micro-batch of images, both ways in turns in one run, and one
optimizer step of the objective with each.
"""

from __future__ import annotations

import statistics
import sys
import time
from functools import partial
from typing import Any

import ray
import torch

from actors.policy import Policy
from actors.rollout import rollout
from benchmarks.arguments import parse_config
from cluster.crew.placement import reward_names
from cluster.crew.remote_reward import RemoteReward
from cluster.local import place
from cluster.prompts import make_requests, read_prompts
from learner.batch import collate
from learner.learner import Learner
from learner.reward_gradient import RewardModel
from rewards.actor import RewardActor
from rewards.weighted import WeightedSum

ROUNDS, UPDATES = 7, 3


def main(arguments: list[str]) -> None:
    """Measure and print."""
    words = ["objective.name=residual_nabla_db", *arguments]
    config = parse_config("benchmarks.reward_gradients", __doc__, words)
    placement = place(config)
    weights = {name: reward.weight for name, reward in config.rewards.items()}
    role: Any = ray.remote(RewardActor)
    names = reward_names(config, tuple(config.rewards))
    actors = [role.options(**placement.options("reward", name)).remote(config.makers) for name in names]
    ways: dict[str, RewardModel] = {
        "learner": WeightedSum.make(config.makers, weights),
        "actors": RemoteReward({tuple(config.rewards): actors}, weights),
    }
    policy = Policy.load(config.policy.model_copy(update={"model": config.pipeline}), config.seed)
    size = config.learner.at_a_time(policy.device)
    prompts = (read_prompts(config.prompts.train) * size)[:size]
    images = torch.rand(len(prompts), 3, policy.latent_shape[1] * 4, policy.latent_shape[2] * 4)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            times[name].append(_timed(partial(way.score_and_grad, images, prompts)))
    for name, found in times.items():
        print(f"{name:8s} {len(prompts)} images: {1000 * statistics.median(found):.0f} ms")

    steps = config.objective.build().plan(policy.transitions).stored_steps
    request = make_requests(prompts[:16], 1, 16, seed=0, stored_steps=steps)[0]
    pixels, trajectories = rollout(policy, request)
    scores = ray.get(actors[0].score.remote(pixels, request.prompts)).values[0]
    learners = {
        name: Learner(config.learner, policy, config.objective.build(), config.seed, way) for name, way in ways.items()
    }
    times = {name: [] for name in ways}
    for _ in range(UPDATES):
        for name, learner in learners.items():
            times[name].append(_timed(partial(learner.step, collate([trajectories], scores))))
    for name, found in times.items():
        print(f"{name:8s} an update of {len(request.prompts)} samples: {statistics.median(found):.2f} s")
    ray.shutdown()


def _timed(call: partial) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


if __name__ == "__main__":
    main(sys.argv[1:])
