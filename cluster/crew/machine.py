"""The machines of a run; the memory of one, and whether what is needed of it is there."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
import torch

from cluster.crew.memory import Need, gigabytes
from cluster.errors import DoesNotFit

log = logging.getLogger(__name__)
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container


def memory_here() -> tuple[float, list[float]]:
    """Bytes that this machine has, or its container, and of each GPU that this process sees."""
    said = _LIMIT.read_text().strip() if _LIMIT.is_file() else "max"
    machine = float(psutil.virtual_memory().total)
    gpus = [float(torch.cuda.mem_get_info(number)[1]) for number in range(torch.cuda.device_count())]
    return machine if said == "max" else min(machine, float(said)), gpus


def machines() -> list[dict[str, Any]]:
    """The machines of a run: this one, with the GPUs that it sees, and what Ray's other nodes offer."""
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    own = {"system": platform.platform(), "processor": _processor(), "cpus": os.cpu_count(), "memory": memory_here()[0]}
    return [{**own, "gpus": gpus}, *({"node": o["NodeName"], **_offered(o["Resources"])} for o in others)]


def _offered(resources: Mapping[str, float]) -> dict[str, Any]:
    kinds = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    gpus = (kinds or ["GPU"]) * int(resources.get("GPU", 0))
    return {"cpus": resources.get("CPU"), "memory": resources.get("memory"), "gpus": gpus}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def check(where: str, total: float, needs: Sequence[tuple[Need, int, Mapping[str, float]]]) -> None:
    """Compare one memory with what actors need of it; warns where only the estimate of a pass is too large.

    Args:
        where: It is, to begin a sentence with.
        total: Bytes.
        needs: Roles, how many actors of each, and what each needs there.

    Raises:
        DoesNotFit: If what is held all the time is larger already.
    """
    kept = sum(count * need.kept(parts) for need, count, parts in needs)
    wanted = sum(count * sum(parts.values()) for _, count, parts in needs)
    who = ", ".join(need.who if count == 1 else f"{count} times {need.who}" for need, count, parts in needs if parts)
    advice = "; ".join(f"for {need.who} {need.advice}" for need, _, parts in needs if parts and need.advice)
    if kept > total:
        raise DoesNotFit(
            f"{where} has {gigabytes(total)} of memory, but what is loaded for {who} takes about {gigabytes(kept)}; "
            f"take a larger one{', or ' * bool(advice)}{advice}."
        )
    if wanted > total:
        log.warning(
            f"{where} has {gigabytes(total)} of memory, and {who} may need {gigabytes(wanted)}; if it runs out, "
            f"{advice or 'take a larger one'}."
        )
