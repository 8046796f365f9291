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
from ray.exceptions import GetTimeoutError, RayActorError

from actors.sampler import Sampler
from cluster.config import Config
from cluster.environments import StartError, cannot_start, runtime_env
from cluster.learner_group import LearnerGroup
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
    learner: LearnerGroup
    samplers: Pool
    rewards: Mapping[tuple[str, ...], Pool]  # one of each environment, by the names of its rewards


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
    ranks = config.learner.ranks
    workers = config.samplers.count + config.reward_actors.count * len(config.environments) + ranks
    gpus = torch.cuda.device_count() / workers
    at_once = config.samplers.count + (ranks if config.samplers.max_staleness else 0)
    share = max(1, cores // at_once)

    def options(threads: int) -> dict[str, Any]:
        # Ray would set one thread, and what OpenMP is told later does not undo all of that: 25 % slower.
        environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
        return {"num_cpus": 0, "num_gpus": min(1.0, gpus), "runtime_env": environment}

    return Placement(
        options(share), options(1), options(share if config.samplers.max_staleness else max(1, cores // ranks))
    )


def on_cluster(config: Config) -> Placement:
    """Join the Ray cluster that this driver was submitted to, with the resources that the config names."""
    ray.init(address="auto", logging_level=logging.ERROR)
    return Placement(
        {"num_cpus": config.samplers.cpus, "num_gpus": config.samplers.gpus, "scheduling_strategy": "SPREAD"},
        {"num_cpus": config.reward_actors.cpus, "num_gpus": config.reward_actors.gpus, "scheduling_strategy": "SPREAD"},
        {"num_cpus": config.learner.cpus, "num_gpus": config.learner.gpus},
    )


def make_crew(config: Config, placement: Placement) -> Crew:
    """Create the actors of a run and wait until their models are loaded.

    Raises:
        StartError: If a reward's environment cannot be set up, or an actor cannot load its model.
    """
    policy = config.policy.model_copy(update={"model": config.pipeline})
    # Samplers find the store by name, because Ray cannot restart an actor whose constructor was given a handle. Names
    # are unique, so that no earlier crew is in the way; all of one crew end alike.
    tag = uuid.uuid4().hex[:8]
    store = _start(WeightStore, {"num_cpus": 0, "name": f"weights.{tag}"})
    # Ray brings these back; their lost calls are run again by the pool, which knows that they may go elsewhere.
    restarting = {"max_restarts": -1, "max_task_retries": 0}
    samplers = [
        _start(
            Sampler,
            {**placement.sampler, **restarting, "name": f"sampler-{number}.{tag}"},
            policy,
            f"weights.{tag}",
            f"sampler-{number}",
        )
        for number in range(config.samplers.count)
    ]
    makers = config.makers
    rewards: dict[tuple[str, ...], list[ActorHandle]] = {}
    for environment, names in config.environments.items():
        isolated = {**placement.reward, **restarting}
        isolated["runtime_env"] = isolated.get("runtime_env", {}) | runtime_env(environment)
        own = {name: makers[name] for name in names}
        rewards[names] = [
            _start(RewardActor, {**isolated, "name": f"reward-{'-'.join(names)}-{number}.{tag}"}, own)
            for number in range(config.reward_actors.count)
        ]
    weights = {name: reward.weight for name, reward in config.rewards.items()}
    reward: Callable[[], RewardModel] | None = None
    if config.objective.build().needs_reward != "nothing":
        with_learner = config.reward_actors.gradients == "learner"
        reward = partial(WeightedSum.make, makers, weights) if with_learner else partial(RemoteReward, rewards, weights)
    arguments = (config.learner, policy, config.objective, config.seed, reward)
    ranks = [
        _start(LearnerActor, {**placement.learner, "name": f"learner-{rank}.{tag}"}, *arguments)
        for rank in range(config.learner.ranks)
    ]
    deaths, patience = config.failures.max_deaths, config.failures.patience
    pools = {
        names: Pool(f"actor of the rewards {', '.join(names)}", actors, deaths, patience.score)
        for names, actors in rewards.items()
    }
    learner = LearnerGroup(ranks, config.learner.rank_timeout)
    crew = Crew(store, learner, Pool("sampler", samplers, deaths, patience.sample), pools)
    crew.samplers.start(config.samplers.min_count or config.samplers.count, patience.start)
    for pool in crew.rewards.values():
        pool.start(config.reward_actors.count, patience.start)
    try:
        learner.join(patience.start)
    except GetTimeoutError:
        raise StartError(
            f"The learner was not up after failures.patience.start={patience.start:g} s; does the cluster have room?"
        ) from None
    except RayActorError as error:
        raise cannot_start("The learner", error) from error
    return crew


def dismiss(crew: Crew) -> None:
    """Kill the actors of a run."""
    rewards = [actor for pool in crew.rewards.values() for actor in pool.actors]
    for actor in (*crew.samplers.actors, *rewards, *crew.learner.actors, crew.store):
        ray.kill(actor)


def _start(role: type, options: Mapping[str, Any], *args: Any) -> ActorHandle:
    actor: Any = ray.remote(role)  # Ray's own types do not follow options()
    return actor.options(**options).remote(*args)
