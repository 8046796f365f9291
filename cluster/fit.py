"""Which actor goes on which node: planned before anything starts, so that what cannot fit is refused, not awaited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cluster.environments import StartError

_ROUNDING = 1e-6  # fractions of a GPU add up in binary


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


class DoesNotFit(StartError):
    """The cluster has no room; the message is one sentence for the user."""


def fit(demands: Sequence[Demand], nodes: Sequence[Node]) -> dict[str, str]:
    """The node of every actor: the largest demands first, each where most is left, so that equal actors spread.

    Demands of very different shapes may fit in a way that this rule misses.

    Raises:
        DoesNotFit: If there is no room for one.
    """
    left = {node.name: dict(node.resources) for node in nodes}
    plan = {}
    for demand in sorted(demands, key=lambda demand: _size(demand.resources), reverse=True):
        fitting = [n.name for n in nodes if _fits(demand.resources, left[n.name]) and _labelled(demand, n)]
        if not fitting:
            raise DoesNotFit(
                f"The cluster has no room for {demand.who}, which asks for {_words(demand)}: left are "
                + "; ".join(f"{_amounts(resources)} on {name}" for name, resources in left.items())
                + ". Ask for less, or add a node."
            )
        chosen = max(fitting, key=lambda name: _size(left[name]))
        for resource, amount in demand.resources.items():
            left[chosen][resource] = left[chosen].get(resource, 0) - amount
        plan[demand.who] = chosen
    return {demand.who: plan[demand.who] for demand in demands}


def report(plan: Mapping[str, str]) -> str:
    """The plan as lines, one a node."""
    return "\n".join(
        f"{node}: {', '.join(who for who, on in plan.items() if on == node)}" for node in dict.fromkeys(plan.values())
    )


def _size(resources: Mapping[str, float]) -> tuple[float, float]:
    return resources.get("GPU", 0.0), resources.get("CPU", 0.0)


def _fits(resources: Mapping[str, float], left: Mapping[str, float]) -> bool:
    return all(left.get(resource, 0) >= amount - _ROUNDING for resource, amount in resources.items())


def _labelled(demand: Demand, node: Node) -> bool:
    return all(node.labels.get(label) == value for label, value in demand.labels.items())


def _words(demand: Demand) -> str:
    labels = ", ".join(f"{label}={value}" for label, value in demand.labels.items())
    return _amounts(demand.resources) + (f" on a node with {labels}" if labels else "")


def _amounts(resources: Mapping[str, float]) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in resources.items() if amount > _ROUNDING) or "nothing"
