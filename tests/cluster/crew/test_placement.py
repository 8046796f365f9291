"""Where actors go: what a role asks for, and what is reserved for one of them alone."""

from __future__ import annotations

from collections.abc import Callable

from cluster.config import Config
from cluster.crew.placement import Placement, learner_names, reward_names, sampler_names


def test_what_is_reserved_for_an_actor_wins_over_what_its_role_asks_for() -> None:
    placement = Placement({"num_cpus": 1, "strategy": "SPREAD"}, {}, {"num_cpus": 4}, {"a": {"strategy": "reserved"}})
    assert placement.options("sampler", "a") == {"num_cpus": 1, "strategy": "reserved"}
    assert placement.options("sampler", "b") == {"num_cpus": 1, "strategy": "SPREAD"}
    assert placement.options("learner", "c") == {"num_cpus": 4}


def test_every_actor_of_a_run_has_a_name_of_its_own(make_config: Callable[..., Config]) -> None:
    config = make_config("samplers.count=3", "reward_actors.count=2", "learner.ranks=2")
    rewards = [name for names in config.environments.values() for name in reward_names(config, names)]
    names = [*sampler_names(config), *learner_names(config), *rewards]
    assert len(set(names)) == len(names) == 3 + 2 + 2 * len(config.environments)
