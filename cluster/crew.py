"""The actors of a run: made, waited for, and dismissed."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.sampler import Sampler
from cluster.config import Config
from cluster.environments import StartError, cannot_start, runtime_env
from cluster.learner_group import LearnerGroup
from cluster.placement import Placement, learner_names, reward_names, sampler_names
from cluster.pool import Pool
from cluster.remote_reward import RemoteReward
from cluster.weights import WeightStore
from learner.actor import LearnerActor
from learner.guidance import RewardModel
from rewards.actor import RewardActor
from rewards.weighted import WeightedSum


@dataclass(frozen=True)
class Crew:
    """The actors of a run."""

    store: ActorHandle
    learner: LearnerGroup
    samplers: Pool
    rewards: Mapping[tuple[str, ...], Pool]  # one of each environment, by the names of its rewards


def make_crew(config: Config, placement: Placement, again: bool = False) -> Crew:
    """Create the actors of a run and wait until their models are loaded.

    Args:
        config: Of the run.
        placement: Where they go.
        again: In place of a crew that was lost: one sampler and one reward actor of each environment are enough to go
            on, because a node may have gone with the others' room.

    Raises:
        StartError: If a reward's environment cannot be set up, or an actor cannot load its model.
    """
    policy = config.policy.model_copy(update={"model": config.pipeline})
    # Samplers find the store by name, because Ray cannot restart an actor whose constructor was given a handle. Names
    # are unique, so that no earlier crew is in the way; all of one crew end alike.
    tag = uuid.uuid4().hex[:8]
    # The store lives and dies with the driver's node, so that no other node's loss takes it away.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    store = _start(WeightStore, {"num_cpus": 0, "scheduling_strategy": here}, f"weights.{tag}")
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
    arguments = (config.learner, policy, config.objective, config.seed, config.iterations, reward)
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
    crew.samplers.start(1 if again else config.samplers.min_count or config.samplers.count, patience.start)
    for pool in crew.rewards.values():
        pool.start(1 if again else config.reward_actors.count, patience.start)
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
