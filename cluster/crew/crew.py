"""The actors of a run: assembled, waited for, and dismissed."""

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

from actors.config import PolicyConfig
from actors.sampler import Sampler
from cluster.config import Config
from cluster.crew.learner_group import LearnerGroup
from cluster.crew.placement import Placement, learner_names, reward_names, sampler_names
from cluster.crew.pool import Pool
from cluster.crew.remote_reward import RemoteReward
from cluster.crew.runtime_envs import cannot_start, runtime_env
from cluster.crew.weights import WeightStore
from cluster.errors import StartError
from learner.actor import LearnerActor
from learner.advantages import Advantages
from learner.reward_gradient import RewardModel
from learner.spending import ImageSource
from rewards.actor import RewardActor
from rewards.weighted import WeightedSum

# Ray brings these back; their lost calls are run again by the pool, which knows that they may go elsewhere.
_RESTARTING = {"max_restarts": -1, "max_task_retries": 0}


@dataclass(frozen=True)
class Crew:
    """The actors of a run."""

    store: ActorHandle
    learner: LearnerGroup
    samplers: Pool
    rewards: Mapping[tuple[str, ...], Pool]  # one of each environment, by the names of its rewards

    @property
    def pools(self) -> tuple[Pool, ...]:
        """All pools."""
        return self.samplers, *self.rewards.values()

    def lost(self, error: Exception) -> str | None:
        """Whose loss an exception tells of, in a sentence, if nothing goes on without them; else `None`."""
        return self.learner.lost(error, {"The weight store": self.store})


def make_crew(config: Config, placement: Placement) -> Crew:
    """Assemble the actors of a run and wait until their models are loaded; raises as `assemble` and `wait_for`."""
    crew = assemble(config, placement)
    wait_for(crew, config)
    return crew


def assemble(config: Config, placement: Placement) -> Crew:
    """Create the actors of a run, whose models load from now on.

    Args:
        config: Of the run.
        placement: Where they go.

    Raises:
        StartError: If a reward's environment cannot be set up.
    """
    policy = config.policy.model_copy(update={"model": config.pipeline})
    tag = new_tag()
    store = start_store(tag)
    samplers = start_samplers(config, policy, placement, tag)
    pools = start_rewards(config, placement, tag)
    weights = config.weights
    combination = config.combination
    advantages = Advantages(weights, config.standardise, combination.buffer, combination.min_count, combination.whiten)
    reward: Callable[[], RewardModel] | None = None
    if config.objective.asks.reward != "scores":
        with_learner = config.reward_actors.gradients == "learner"
        actors = {names: pool.actors for names, pool in pools.items()}
        makers = config.makers
        reward = partial(WeightedSum.make, makers, weights) if with_learner else partial(RemoteReward, actors, weights)
    run = (config.seed, config.iterations)
    arguments = (config.learner, policy, config.objective, *run, advantages, reward, config.first_step, _images(config))
    ranks = [
        _start(LearnerActor, placement.options("learner", who), f"{who}.{tag}", *arguments)
        for who in learner_names(config)
    ]
    learner = LearnerGroup(ranks, config.learner.rank_timeout, config.failures.patience.learn)
    return Crew(store, learner, samplers, pools)


def new_tag() -> str:
    """What ends the names of one crew's actors, so that no earlier crew is in the way."""
    return uuid.uuid4().hex[:8]


def start_store(tag: str) -> ActorHandle:
    """Create the weight store, which lives and dies with the driver's node: no other node's loss takes it away."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return _start(WeightStore, {"num_cpus": 0, "scheduling_strategy": here}, _store_name(tag))


def start_samplers(config: Config, policy: PolicyConfig, placement: Placement, tag: str) -> Pool:
    """Create the samplers of a policy, beside the store of the same tag.

    They find it by name, because Ray cannot restart an actor whose constructor was given a handle.
    """
    patience = config.failures.patience.sample
    # The store's silence is noticed before the sampler that waits for it is taken to hang.
    acting, silence = (policy, _store_name(tag)), patience / 2
    samplers = [
        _start(Sampler, placement.options("sampler", who) | _RESTARTING, f"{who}.{tag}", *acting, who, silence)
        for who in sampler_names(config)
    ]
    return Pool("sampler", samplers, config.failures.max_deaths, patience)


def start_rewards(config: Config, placement: Placement, tag: str) -> dict[tuple[str, ...], Pool]:
    """Create the reward actors: a pool of each environment, by the names of its rewards.

    Raises:
        StartError: If a reward's environment cannot be set up.
    """
    makers, failures = config.makers, config.failures
    pools: dict[tuple[str, ...], Pool] = {}
    for environment, names in config.environments.items():
        isolated = runtime_env(environment)
        own = {name: makers[name] for name in names}
        actors = []
        for who in reward_names(config, names):
            options = placement.options("reward", who) | _RESTARTING
            options["runtime_env"] = options.get("runtime_env", {}) | isolated
            actors.append(_start(RewardActor, options, f"{who}.{tag}", own))
        role = f"actor of the rewards {', '.join(names)}"
        pools[names] = Pool(role, actors, failures.max_deaths, failures.patience.score)
    return pools


def wait_for(crew: Crew, config: Config, again: bool = False) -> None:
    """Wait until the models of a crew are loaded.

    Args:
        crew: As assembled.
        config: Of the run.
        again: In place of a crew that was lost: one sampler and one reward actor of each environment are enough to go
            on, because a node may have gone with the others' room.

    Raises:
        StartError: If an actor cannot load its model.
        RayActorError: If the learner was lost meanwhile.
    """
    patience = config.failures.patience.start
    crew.samplers.start(1 if again else config.samplers.min_count or config.samplers.count, patience)
    for pool in crew.rewards.values():
        pool.start(1 if again else config.reward_actors.count, patience)
    try:
        crew.learner.join(patience)
    except GetTimeoutError:
        raise StartError(
            f"The learner was not up after failures.patience.start={patience:g} s; does the cluster have room?"
        ) from None
    except RayActorError as error:
        if error.actor_init_failed:
            raise cannot_start("The learner", error) from error
        raise


def dismiss(crew: Crew) -> None:
    """Kill the actors of a run."""
    for actor in (*(actor for pool in crew.pools for actor in pool.actors), *crew.learner.actors, crew.store):
        ray.kill(actor)


def _images(config: Config) -> ImageSource:
    """Whose the images of its batches are."""
    if config.data is None:
        return "drawn" if config.people is None else "chosen"
    return "labelled" if config.data.labels == "people" else "judged"


def _store_name(tag: str) -> str:
    return f"weights.{tag}"


def _start(role: type, options: Mapping[str, Any], name: str, *args: Any) -> ActorHandle:
    actor: Any = ray.remote(role)  # Ray's own types do not follow options()
    return actor.options(**options, name=name).remote(*args)
