"""Rounds in turns, held to equal work, and their ratios: plain functions."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

from benchmarks.peers.work import COUNTS, Round, alike
from cluster.errors import ConfigError


def check_equal(rounds: Mapping[str, Round]) -> None:
    """Refuse sides that do not do the same in an update.

    Raises:
        ConfigError: In one sentence.
    """
    (first, ours), *others = rounds.items()
    for name, theirs in others:
        for count, called in COUNTS.items():
            here, there = getattr(ours, count), getattr(theirs, count)
            if here != there:
                raise ConfigError(
                    f"{first} has {here:,} {called} an update and {name} has {there:,}; a ratio of their times would "
                    "compare different work."
                )


def of_records(metrics: Sequence[Mapping[str, float]], seconds: float) -> Round:
    """What a run's records say that its iterations did.

    Args:
        metrics: Of two or more iterations, one after another, by name; see `docs/metrics.md`.
        seconds: Of an iteration.

    Raises:
        Unlike: If they were not alike.
    """
    totals = ("reward_queries", "network_evaluations")
    spent = [
        (*(int(after[name] - before[name]) for name in totals), int(after["updates"]))
        for before, after in itertools.pairwise(metrics)
    ]
    return Round((seconds,), math.nan, *alike("By its records a run's iterations", spent))


def speed(of: Round, images: int) -> float:
    """Images a second, of the median update."""
    return images / statistics.median(of.seconds)


def ratios(rounds: Sequence[Mapping[str, Round]], ours: str, theirs: str) -> list[float]:
    """How many times as fast ours is, in each round: of the two that were neighbours there.

    Raises:
        ConfigError: If they did not do the same.
    """
    for each in rounds:
        check_equal({ours: each[ours], theirs: each[theirs]})
    return [statistics.median(each[theirs].seconds) / statistics.median(each[ours].seconds) for each in rounds]
