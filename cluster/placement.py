"""Where the actors are: the one thing in which a laptop and a cluster differ."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from actors.sampler import Sampler
from cluster.config import Config
from cluster.pool import Pool
from cluster.remote_reward import RemoteReward
from cluster.weights import WeightStore
from learner.actor import LearnerActor
from learner.guidance import RewardModel
from rewards.actor import RewardActor
from rewards.weighted import WeightedSum


@dataclass(frozen=True)
class Placement:
    """Ray options of each role."""

    sampler: Mapping[str, Any]
    reward: Mapping[str, Any]
    learner: Mapping[str, Any]


@dataclass(frozen=True)
class Crew:
    """The actors of a run."""

    store: ActorHandle
    learner: ActorHandle
    samplers: Pool
    rewards: Pool


def local(config: Config) -> Placement:
    """Start Ray on this machine alone, on loopback, and share its cores and GPUs out.

    Actors that take turns (a synchronous run) may each use every core; those that work at the same time must share, or
    they would wait for each other's threads.
    """
    cores = os.cpu_count() or 1
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _node_ip_address="127.0.0.1",
    )
    workers = config.samplers.count + config.reward_actors.count + 1
    gpus = torch.cuda.device_count() / workers
    at_once = config.samplers.count + (1 if config.samplers.max_staleness else 0)
    share = max(1, cores // at_once)

    def options(threads: int) -> dict[str, Any]:
        # Ray would set one thread, and what OpenMP is told later does not undo all of that: 25 % slower.
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
        return {"num_cpus": 0, "num_gpus": min(1.0, gpus), "runtime_env": environment}

    return Placement(options(share), options(1), options(share if config.samplers.max_staleness else cores))


def on_cluster(config: Config) -> Placement:
    """Join the Ray cluster that this driver was submitted to, with the resources that the config names."""
    ray.init(address="auto", logging_level=logging.ERROR)
    return Placement(
        {"num_cpus": config.samplers.cpus, "num_gpus": config.samplers.gpus, "scheduling_strategy": "SPREAD"},
        {"num_cpus": config.reward_actors.cpus, "num_gpus": config.reward_actors.gpus, "scheduling_strategy": "SPREAD"},
        {"num_cpus": config.learner.cpus, "num_gpus": config.learner.gpus},
    )


def make_crew(config: Config, placement: Placement) -> Crew:
    """Create the actors of a run and wait until their models are loaded."""
    policy = config.policy.model_copy(update={"model": config.pipeline})
    # Samplers find the store by name, because Ray cannot restart an actor whose constructor was given a handle. Names
    # are unique, so that no earlier crew is in the way; all of one crew end alike.
    crew = uuid.uuid4().hex[:8]
    store = _start(WeightStore, {"num_cpus": 0, "name": f"weights.{crew}"})
    # Ray brings these back; their lost calls are run again by the pool, which knows that they may go elsewhere.
    restarting = {"max_restarts": -1, "max_task_retries": 0}
    samplers = [
        _start(
            Sampler,
            {**placement.sampler, **restarting, "name": f"sampler-{number}.{crew}"},
            policy,
            f"weights.{crew}",
            f"sampler-{number}",
        )
        for number in range(config.samplers.count)
    ]
    options = {name: reward.options for name, reward in config.rewards.items()}
    rewards = [
        _start(RewardActor, {**placement.reward, **restarting, "name": f"reward-{number}.{crew}"}, options)
        for number in range(config.reward_actors.count)
    ]
    weights = {name: reward.weight for name, reward in config.rewards.items()}
    reward: Callable[[], RewardModel] | None = None
    if config.objective.build().needs_reward != "nothing":
        with_learner = config.reward_actors.gradients == "learner"
        reward = (
            partial(WeightedSum.make, options, weights) if with_learner else partial(RemoteReward, rewards, weights)
        )
    learner = _start(
        LearnerActor,
        {**placement.learner, "name": f"learner.{crew}"},
        config.learner,
        policy,
        config.objective,
        config.seed,
        reward,
    )
    ray.get([actor.ready.remote() for actor in (*samplers, *rewards)] + [learner.weights.remote()])
    deaths = config.failures.max_deaths
    return Crew(store, learner, Pool("sampler", samplers, deaths), Pool("reward", rewards, deaths))


def dismiss(crew: Crew) -> None:
    """Kill the actors of a run."""
    for actor in (*crew.samplers.actors, *crew.rewards.actors, crew.learner, crew.store):
        ray.kill(actor)


def _start(role: type, options: Mapping[str, Any], *args: Any) -> ActorHandle:
    actor: Any = ray.remote(role)  # Ray's own types do not follow options()
    return actor.options(**options).remote(*args)
