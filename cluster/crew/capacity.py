"""Which actor goes on which node: planned before anything starts, so that what cannot fit is refused, not awaited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.errors import DoesNotFit

UNITS = 10_000  # Ray's own arithmetic: a CPU or a GPU is so many units, and amounts are rounded to whole ones


@dataclass(frozen=True)
class Demand:
    """What one actor asks for."""

    who: str
    resources: Mapping[str, float]  # by Ray's names, CPU and GPU; 0 asks for nothing
    labels: Mapping[str, str] = field(default_factory=dict)  # that its node must have


@dataclass(frozen=True)
class Node:
    """What a node has."""

    name: str
    resources: Mapping[str, float]
    labels: Mapping[str, str] = field(default_factory=dict)


def assign(demands: Sequence[Demand], nodes: Sequence[Node]) -> dict[str, str]:
    """The node of every actor: the largest demands first, each where most is left, so that equal actors spread.

    A fraction of a GPU is a share of one device, and more than one are whole devices, as Ray has it. Demands of very
    different shapes may fit in a way that this rule misses.

    Raises:
        DoesNotFit: If there is no room for one.
    """
    rooms = {node.name: _Room(node) for node in nodes}
    plan = {}
    for demand in sorted(demands, key=lambda demand: _size(demand.resources), reverse=True):
        fitting = [room for room in rooms.values() if room.takes(demand)]
        if not fitting:
            raise DoesNotFit(
                f"The cluster has no room for {demand.who}, which asks for {_words(demand)}: left are "
                + "; ".join(f"{room.left()} on {name}" for name, room in rooms.items())
                + ". Ask for less, or add a node."
            )
        chosen = max(fitting, key=lambda room: room.size)
        chosen.give(demand)
        plan[demand.who] = chosen.node.name
    return {demand.who: plan[demand.who] for demand in demands}


def describe(plan: Mapping[str, str]) -> str:
    """The plan as lines, one a node."""
    return "\n".join(
        f"{node}: {', '.join(who for who, on in plan.items() if on == node)}" for node in dict.fromkeys(plan.values())
    )


class _Room:
    """What is left of a node, in units: of each GPU, and of everything else."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._gpus = [UNITS] * int(node.resources.get("GPU", 0))
        self._rest = {name: _units(amount) for name, amount in node.resources.items() if name != "GPU"}

    @property
    def size(self) -> tuple[int, int]:
        return sum(self._gpus), self._rest.get("CPU", 0)

    def takes(self, demand: Demand) -> bool:
        labelled = all(self.node.labels.get(label) == value for label, value in demand.labels.items())
        enough = all(self._rest.get(n, 0) >= _units(a) for n, a in demand.resources.items() if n != "GPU")
        return labelled and enough and self._devices(demand) is not None

    def give(self, demand: Demand) -> None:
        for name, amount in demand.resources.items():
            if name != "GPU":
                self._rest[name] = self._rest.get(name, 0) - _units(amount)
        for device, units in (self._devices(demand) or {}).items():
            self._gpus[device] -= units

    def left(self) -> str:
        """In words; GPUs of which something is taken are told apart, because no demand can join their rests."""
        gpus = [units / UNITS for units in self._gpus if units]
        parts = [f"{sum(share == 1 for share in gpus)} GPU"] if 1 in gpus else []
        parts += [f"{share:g} of a GPU" for share in gpus if share < 1]
        parts += [f"{units / UNITS:g} {name}" for name, units in self._rest.items() if units]
        return ", ".join(parts) or "nothing"

    def _devices(self, demand: Demand) -> dict[int, int] | None:
        """The units that a demand takes of each GPU; `None` if it finds none."""
        units = _units(demand.resources.get("GPU", 0))
        count, fraction = divmod(units, UNITS)
        if not units:
            return {}
        if count and fraction:
            return None
        if count:
            free = [device for device, left in enumerate(self._gpus) if left == UNITS]
            return dict.fromkeys(free[:count], UNITS) if len(free) >= count else None
        shared = [device for device, left in enumerate(self._gpus) if left >= fraction]
        return {min(shared, key=self._gpus.__getitem__): fraction} if shared else None  # the fullest: whole ones stay


def _size(resources: Mapping[str, float]) -> tuple[float, float]:
    return resources.get("GPU", 0.0), resources.get("CPU", 0.0)


def _units(amount: float) -> int:
    return round(amount * UNITS)


def _words(demand: Demand) -> str:
    labels = ", ".join(f"{label}={value}" for label, value in demand.labels.items())
    asked = ", ".join(f"{amount:g} {name}" for name, amount in demand.resources.items() if _units(amount))
    return (asked or "nothing") + (f" on a node with {labels}" if labels else "")
