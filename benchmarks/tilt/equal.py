"""Methods at equal reward: each run's figures where its path first crosses a reward, and who is ahead of whom there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t

# Figures by which a method keeps more of the prior, and whether more of them is better.
MEASURES = {
    "diversity": True, "diversity_pixels": True, "distance": False, "grounds_kl": False, "frechet": False,
}  # fmt: skip

# Of a run: its figures by name, a value a checkpoint, in order; "reward" is one of them.
Path = Mapping[str, Sequence[float]]


def at_reward(path: Path, target: float) -> dict[str, float] | None:
    """A run's figures where its reward first reaches a target, between two checkpoints on the straight line.

    Args:
        path: From the pretrained model on.
        target: A reward.

    Returns:
        The figures by name; `None` if the run never comes so far.
    """
    reward = np.asarray(path["reward"], float)
    reached = np.nonzero(reward >= target)[0]
    if not len(reached):
        return None
    after = int(reached[0])
    before = max(after - 1, 0)
    step = reward[after] - reward[before]
    share = (target - reward[before]) / step if step else 1.0
    return {
        name: float(values[before] if share == 0 else values[after] if share == 1
                    else (1 - share) * values[before] + share * values[after])
        for name, values in path.items()
    }  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One method beside another in one measure at one reward."""

    ours: str
    theirs: str
    measure: str
    lead: float  # mean over seeds of how far ours is ahead; below 0 it is behind
    error: float  # standard error of that
    seeds: int

    @property
    def verdict(self) -> str:
        """`ahead` or `behind` where 0 is outside of Student's interval of 95 %, or `open`."""
        if self.seeds < 2 or not abs(self.lead) > t.ppf(0.975, self.seeds - 1) * self.error:
            return "open"
        return "ahead" if self.lead > 0 else "behind"


def claims(
    ours: Mapping[str, Mapping[int, Mapping[str, float]]], theirs: Mapping[str, Mapping[int, Mapping[str, float]]]
) -> list[Claim]:
    """Every pair of methods in every measure, by the differences of runs of the same seed, which share their noise.

    Args:
        ours: Figures at one reward by method and seed, of those seeds that reach it.
        theirs: The same of those that they are held against.
    """
    made = []
    for own, of_own in ours.items():
        for other, of_other in theirs.items():
            shared = sorted(of_own.keys() & of_other.keys())
            for measure, more in MEASURES.items():
                leads = np.array([of_own[seed][measure] - of_other[seed][measure] for seed in shared])
                leads = (leads if more else -leads)[np.isfinite(leads)]
                if len(leads):
                    error = float(leads.std(ddof=1) / len(leads) ** 0.5) if len(leads) > 1 else float("nan")
                    made.append(Claim(own, other, measure, float(leads.mean()), error, len(leads)))
    return made
