"""What a run reserves on a cluster before it starts: all that it needs, in one piece, or nothing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cluster.config import Config, RoleConfig
from cluster.crew.capacity import Demand, Node, assign, describe
from cluster.crew.placement import Placement, learner_names, reward_names, sampler_names
from cluster.errors import StartError
from cluster.stopping import at_once, beginning

_PATIENCE = 60.0  # seconds; there is room, but another run may hold it


def on_cluster(config: Config) -> Placement:
    """Join the Ray cluster that this driver was submitted to, and reserve what the config asks for.

    Samplers beyond `samplers.min_count` are not part of the reservation: they come and go with the nodes.

    Raises:
        StartError: If there is no cluster, or the run does not fit.
    """
    try:
        with beginning():
            ray.init(address="auto", logging_level=logging.ERROR)
    except ConnectionError as error:
        raise StartError(
            "There is no Ray cluster to join; submit the run to one with ray job submit (docs/cluster.md), or train on "
            "this machine alone with python -m cluster.local."
        ) from error
    demands = _demands(config)
    room = config.failures.patience.room
    if not room:
        assign(demands, list(_nodes().values()))  # refuses at once what Ray would wait for
    plan: dict[str, str] = {}
    reserved: dict[str, dict[str, Any]] = {}
    if asked := [demand for demand in demands if any(demand.resources.values())]:
        group = _reserve(asked, room or _PATIENCE)
        chosen, nodes = placement_group_table(group)["bundles_to_node_id"], _nodes()
        for index, demand in enumerate(asked):
            plan[demand.who] = nodes[chosen[index]].name
            reserved[demand.who] = {"scheduling_strategy": PlacementGroupSchedulingStrategy(group, index)}
    plan |= {demand.who: "where Ray finds room" for demand in demands if demand.who not in plan}
    learner, samplers, rewards = map(_options, (config.learner, config.samplers, config.reward_actors))
    return Placement(samplers, rewards, learner, reserved, describe(plan))


def _demands(config: Config) -> list[Demand]:
    """What the actors ask for that a run cannot start without."""
    roles: dict[str, RoleConfig] = {
        **{who: config.learner for who in learner_names(config)},
        **{who: config.samplers for who in sampler_names(config)[: config.samplers.min_count]},
        **{who: config.reward_actors for names in config.environments.values() for who in reward_names(config, names)},
    }
    return [Demand(who, {"CPU": role.cpus, "GPU": role.gpus}, role.labels) for who, role in roles.items()]


def _nodes() -> dict[str, Node]:
    """The nodes that are up, by Ray's ids."""
    return {
        node["NodeID"]: Node(
            f"{node['NodeManagerHostname']} ({node['NodeID'][:6]})",
            {name: node["Resources"].get(name, 0) for name in ("CPU", "GPU")},
            node.get("Labels") or {},
        )
        for node in ray.nodes()
        if node["Alive"]
    }


def _reserve(demands: Sequence[Demand], patience: float) -> PlacementGroup:
    """One bundle a demand, spread over the nodes; the bundles of a node that is lost move to where there is room."""
    group = placement_group(
        [{name: amount for name, amount in demand.resources.items() if amount} for demand in demands],
        strategy="SPREAD",
        bundle_label_selector=[dict(demand.labels) for demand in demands],
    )
    try:
        with at_once():
            ray.get(group.ready(), timeout=patience)
    except GetTimeoutError:
        raise StartError(
            f"The cluster has had no room for {', '.join(demand.who for demand in demands)} at once in {patience:g} s; "
            "`ray status` says who holds it."
        ) from None
    return group


def _options(role: RoleConfig) -> dict[str, Any]:
    """Ray's options for a role's actors that have no bundle."""
    selector = {"label_selector": dict(role.labels)} if role.labels else {}
    return {"num_cpus": role.cpus, "num_gpus": role.gpus, "scheduling_strategy": "SPREAD", **selector}
