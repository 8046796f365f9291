"""Where the actors are: the one thing in which a laptop and a cluster differ."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import ray
import torch
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.sampler import Sampler
from cluster.config import Config, RoleConfig
from cluster.environments import StartError, cannot_start, runtime_env
from cluster.fit import Demand, Node, fit, report
from cluster.learner_group import LearnerGroup
from cluster.pool import Pool
from cluster.remote_reward import RemoteReward
from cluster.weights import WeightStore
from learner.actor import LearnerActor
from learner.guidance import RewardModel
from rewards.actor import RewardActor
from rewards.weighted import WeightedSum

_RESERVATION = 60.0  # seconds; there is room, but another run may hold it


@dataclass(frozen=True)
class Placement:
    """Ray options of each role, and of single actors by name."""

    sampler: Mapping[str, Any]
    reward: Mapping[str, Any]
    learner: Mapping[str, Any]
    reserved: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    report: str = ""  # which actor goes where, one line a node

    def options(self, role: Literal["sampler", "reward", "learner"], who: str) -> dict[str, Any]:
        """Of one actor."""
        return {**getattr(self, role), **self.reserved.get(who, {})}


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
    """Join the Ray cluster that this driver was submitted to, and reserve what the config asks for in one piece.

    Samplers beyond `samplers.min_count` are not part of the reservation: they come and go with the nodes.

    Raises:
        StartError: If it does not fit.
    """
    ray.init(address="auto", logging_level=logging.ERROR)
    roles: dict[str, RoleConfig] = {
        **{who: config.learner for who in learner_names(config)},
        **{who: config.samplers for who in sampler_names(config)[: config.samplers.min_count]},
        **{who: config.reward_actors for names in config.environments.values() for who in reward_names(config, names)},
    }
    demands = [Demand(who, {"CPU": role.cpus, "GPU": role.gpus}, role.labels) for who, role in roles.items()]
    room = config.failures.patience.room
    if not room:
        fit(demands, _nodes())
    asked = [demand for demand in demands if any(demand.resources.values())]
    reserved: dict[str, dict[str, Any]] = {}
    if asked:
        group = placement_group(
            [{name: amount for name, amount in demand.resources.items() if amount} for demand in asked],
            strategy="SPREAD",
            bundle_label_selector=[dict(demand.labels) for demand in asked],
        )
        try:
            ray.get(group.ready(), timeout=room or _RESERVATION)
        except GetTimeoutError:
            raise StartError(
                f"The cluster has had no room for {', '.join(roles)} at once in {room or _RESERVATION:g} s; "
                "`ray status` says who holds it."
            ) from None
        reserved = {
            demand.who: {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, index)}
            for index, demand in enumerate(asked)
        }

    def options(role: RoleConfig) -> dict[str, Any]:
        selector = {"label_selector": dict(role.labels)} if role.labels else {}
        return {"num_cpus": role.cpus, "num_gpus": role.gpus, "scheduling_strategy": "SPREAD", **selector}

    learner, samplers, rewards = options(config.learner), options(config.samplers), options(config.reward_actors)
    return Placement(samplers, rewards, learner, reserved, report(fit(demands, _nodes())))


def sampler_names(config: Config) -> list[str]:
    """Of a run's samplers."""
    return [f"sampler-{number}" for number in range(config.samplers.count)]


def reward_names(config: Config, names: tuple[str, ...]) -> list[str]:
    """Of the actors that hold these rewards."""
    return [f"reward-{'-'.join(names)}-{number}" for number in range(config.reward_actors.count)]


def learner_names(config: Config) -> list[str]:
    """Of the learner's ranks."""
    return [f"learner-{rank}" for rank in range(config.learner.ranks)]


def _nodes() -> list[Node]:
    return [
        Node(f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})", node["Resources"], node.get("Labels") or {})
        for node in ray.nodes()
        if node["Alive"]
    ]


def make_crew(config: Config, placement: Placement) -> Crew:
    """Create the actors of a run and wait until their models are loaded.

    Raises:
        StartError: If a reward's environment cannot be set up, or an actor cannot load its model.
    """
    policy = config.policy.model_copy(update={"model": config.pipeline})
    # Samplers find the store by name, because Ray cannot restart an actor whose constructor was given a handle. Names
    # are unique, so that no earlier crew is in the way; all of one crew end alike.
    tag = uuid.uuid4().hex[:8]
    store = _start(WeightStore, {"num_cpus": 0}, f"weights.{tag}")
    # Ray brings these back; their lost calls are run again by the pool, which knows that they may go elsewhere.
    restarting = {"max_restarts": -1, "max_task_retries": 0}
    samplers = [
        _start(Sampler, placement.options("sampler", who) | restarting, f"{who}.{tag}", policy, f"weights.{tag}", who)
        for who in sampler_names(config)
    ]
    makers = config.makers
    rewards: dict[tuple[str, ...], list[ActorHandle]] = {}
    for environment, names in config.environments.items():
        isolated = runtime_env(environment)
        own = {name: makers[name] for name in names}
        rewards[names] = []
        for who in reward_names(config, names):
            options = placement.options("reward", who) | restarting
            options["runtime_env"] = options.get("runtime_env", {}) | isolated
            rewards[names].append(_start(RewardActor, options, f"{who}.{tag}", own))
    weights = {name: reward.weight for name, reward in config.rewards.items()}
    reward: Callable[[], RewardModel] | None = None
    if config.objective.build().needs_reward != "nothing":
        with_learner = config.reward_actors.gradients == "learner"
        reward = partial(WeightedSum.make, makers, weights) if with_learner else partial(RemoteReward, rewards, weights)
    arguments = (config.learner, policy, config.objective, config.seed, reward)
    ranks = [
        _start(LearnerActor, placement.options("learner", who), f"{who}.{tag}", *arguments)
        for who in learner_names(config)
    ]
    deaths, patience = config.failures.max_deaths, config.failures.patience
    pools = {
        names: Pool(f"actor of the rewards {', '.join(names)}", actors, deaths, patience.score)
        for names, actors in rewards.items()
    }
    learner = LearnerGroup(ranks, config.learner.rank_timeout, patience.learn)
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


def _start(role: type, options: Mapping[str, Any], name: str, *args: Any) -> ActorHandle:
    actor: Any = ray.remote(role)  # Ray's own types do not follow options()
    return actor.options(**options, name=name).remote(*args)
