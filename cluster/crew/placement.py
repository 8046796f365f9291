"""Where the actors are: the one thing in which a laptop and a cluster differ.

`cluster.local` shares one machine out, `reservation` reserves room on a cluster, and `crew` makes the actors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from cluster.config import Config


@dataclass(frozen=True)
class Placement:
    """Ray options of each role, and of single actors by name."""

    sampler: Mapping[str, Any]
    reward: Mapping[str, Any]
    learner: Mapping[str, Any]
    reserved: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    report: str = ""  # which actor goes where, one line a node
    together: bool = False  # all on this machine

    def options(self, role: Literal["sampler", "reward", "learner"], who: str) -> dict[str, Any]:
        """Of one actor."""
        return {**getattr(self, role), **self.reserved.get(who, {})}


def sampler_names(config: Config) -> list[str]:
    """Of a run's samplers."""
    return [f"sampler-{number}" for number in range(config.samplers.count)]


def reward_names(config: Config, names: tuple[str, ...]) -> list[str]:
    """Of the actors that hold these rewards."""
    return [f"reward-{'-'.join(names)}-{number}" for number in range(config.reward_actors.count)]


def learner_names(config: Config) -> list[str]:
    """Of the learner's ranks."""
    return [f"learner-{rank}" for rank in range(config.learner.ranks)]
