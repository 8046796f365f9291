"""Whether there is the memory that a run is estimated to need: on this machine, or where its actors are placed.

Actors that share a machine of the cluster, or a GPU, are added up there.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import ray

from cluster.config import Config
from cluster.crew.machine import check, memory_here
from cluster.crew.memory import Need
from cluster.crew.placement import Placement, learner_names, reward_names, sampler_names
from cluster.stopping import at_once

_PATIENCE = 60.0  # seconds in which a placed task answers


@dataclass(frozen=True)
class Place:
    """What an actor's place has of memory, and which it shares with others."""

    node: str  # Ray's id
    gpus: tuple[int | str, ...]  # of the node, as Ray numbers them
    machine: float  # bytes
    on_gpus: float  # the same of those GPUs together


def check_room(config: Config, needs: Sequence[Need], placement: Placement) -> None:
    """Compare what a run needs with what there is; warns where only the estimate of a pass is too large.

    Args:
        config: Of the run.
        needs: Of each role.
        placement: Where they are; Ray has been joined.

    Raises:
        DoesNotFit: If what actors hold all the time is larger already.
    """
    if placement.together:
        machine, gpus = memory_here()
        check("This machine", machine, [(need, need.count, need.host) for need in needs])
        if gpus:
            check(
                "This machine, on all of its GPUs together,",
                sum(gpus),
                [(need, need.count, need.device) for need in needs],
            )
        for need in needs if gpus else ():
            check("A GPU here", max(gpus), [(need, 1, need.device)])
        return
    answers = _ask(config, needs, placement)
    for counts, total in _shared((number, place.node, place.machine) for number, place in answers):
        there = [(needs[number], count, needs[number].host) for number, count in counts.items()]
        check(f"The machine of {_names(there)}", total, there)
    on_gpus = [(number, (place.node, place.gpus), place.on_gpus) for number, place in answers if place.on_gpus]
    for counts, total in _shared(on_gpus):
        there = [(needs[number], count, needs[number].device) for number, count in counts.items()]
        check(f"The GPU of {_names(there)}", total, there)


def _names(there: Iterable[tuple[Need, int, Mapping[str, float]]]) -> str:
    return " and ".join(need.who for need, _, _ in there)


def _shared(answers: Iterable[tuple[int, Hashable, float]]) -> list[tuple[Mapping[int, int], float]]:
    """How many actors of each need share a place, and the bytes of the smallest that is shared so.

    Args:
        answers: Of actors: the number of the need, the place, its bytes.
    """
    sharing: dict[Hashable, Counter[int]] = defaultdict(Counter)
    bytes_: dict[Hashable, float] = {}
    for number, place, total in answers:
        sharing[place][number] += 1
        bytes_[place] = total
    smallest: dict[tuple[tuple[int, int], ...], float] = {}  # so that nothing is said twice
    for place, counts in sharing.items():
        alike = tuple(sorted(counts.items()))
        smallest[alike] = min(bytes_[place], smallest.get(alike, math.inf))
    return [(dict(alike), total) for alike, total in smallest.items()]


def _ask(config: Config, needs: Sequence[Need], placement: Placement) -> list[tuple[int, Place]]:
    """Where actors are, each with the number of its need; of none that does not answer.

    They are those that have a reserved place, or the first of a role that has none.
    """
    groups = iter(config.environments.values())
    asked = {}
    for number, need in enumerate(needs):
        names = {"sampler": sampler_names, "learner": learner_names}
        of_role = names[need.role](config) if need.role in names else reward_names(config, next(groups))
        for who in [who for who in of_role if who in placement.reserved] or of_role[:1]:
            asked[ray.remote(_look_around).options(**placement.options(need.role, who)).remote()] = number
    with at_once():
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_PATIENCE)
        return [(asked[answer], place) for answer, place in zip(answered, ray.get(answered), strict=True)]


def _look_around() -> Place:
    machine, gpus = memory_here()
    return Place(ray.get_runtime_context().get_node_id(), tuple(ray.get_gpu_ids()), machine, sum(gpus))
