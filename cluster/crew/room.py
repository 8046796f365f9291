"""Whether there is the memory that a run is estimated to need: on this machine, or where its actors are placed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil
import ray
import torch
from ray.exceptions import GetTimeoutError

from cluster.config import Config
from cluster.crew.memory import Need, gigabytes
from cluster.crew.placement import Placement, learner_names, reward_names, sampler_names
from cluster.errors import DoesNotFit
from cluster.stopping import at_once

log = logging.getLogger(__name__)
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
_PATIENCE = 60.0  # seconds in which a placed task answers


def memory_here() -> tuple[float, list[float]]:
    """Bytes that this machine has, or its container, and of each GPU that this process sees."""
    said = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    machine = float(psutil.virtual_memory().total)
    gpus = [float(torch.cuda.mem_get_info(number)[1]) for number in range(torch.cuda.device_count())]
    return machine if said == "max" else min(machine, float(said)), gpus


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
            check("All GPUs of this machine together", sum(gpus), [(need, need.count, need.device) for need in needs])
        for need in needs if gpus else ():
            check("A GPU here", max(gpus), [(need, 1, need.device)])
        return
    for need, found in _ask(config, needs, placement):
        machine, gpus = found
        check(f"The machine of {need.who}", machine, [(need, 1, need.host)])
        if gpus:
            check(f"The GPU of {need.who}", sum(gpus), [(need, 1, need.device)])


def check(where: str, total: float, needs: Sequence[tuple[Need, int, Mapping[str, float]]]) -> None:
    """Compare one memory with what actors need of it; warns and raises as `check_room`.

    Args:
        where: It is, to begin a sentence with.
        total: Bytes.
        needs: Roles, how many actors of each, and what each needs there.
    """
    kept = sum(count * need.kept(parts) for need, count, parts in needs)
    wanted = sum(count * sum(parts.values()) for _, count, parts in needs)
    who = ", ".join(need.who if count == 1 else f"{count} times {need.who}" for need, count, parts in needs if parts)
    advice = "; ".join(f"for {need.who} {need.advice}" for need, _, parts in needs if parts and need.advice)
    if kept > total:
        raise DoesNotFit(
            f"{where} has {gigabytes(total)} of memory, but what is loaded for {who} takes about {gigabytes(kept)}; "
            f"take a larger one, or {advice}."
        )
    if wanted > total:
        log.warning(
            f"{where} has {gigabytes(total)} of memory, and {who} may need {gigabytes(wanted)}; if it runs out, "
            f"{advice}."
        )


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
