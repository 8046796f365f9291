"""Whether there is the memory that a run is estimated to need: on this machine, or where its actors are placed."""

from __future__ import annotations

from collections.abc import Sequence

import ray
from ray.exceptions import GetTimeoutError

from cluster.config import Config
from cluster.crew.machine import check, memory_here
from cluster.crew.memory import Need
from cluster.crew.placement import Placement, learner_names, reward_names, sampler_names
from cluster.stopping import at_once

_PATIENCE = 60.0  # seconds in which a placed task answers


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
    for need, found in _ask(config, needs, placement):
        machine, gpus = found
        check(f"The machine of {need.who}", machine, [(need, 1, need.host)])
        if gpus:
            check(f"The GPU of {need.who}", sum(gpus), [(need, 1, need.device)])


def _ask(config: Config, needs: Sequence[Need], placement: Placement) -> list[tuple[Need, tuple[float, list[float]]]]:
    """The memory of the first actor's place of each role; of none that does not answer."""
    first = {"sampler": sampler_names(config)[0], "learner": learner_names(config)[0]}
    groups = iter(config.environments.values())
    asked = []
    for need in needs:
        who = first.get(need.role) or reward_names(config, next(groups))[0]
        asked.append(ray.remote(memory_here).options(**placement.options(need.role, who)).remote())
    try:
        with at_once():
            return list(zip(needs, ray.get(asked, timeout=_PATIENCE), strict=True))
    except GetTimeoutError:
        return []
