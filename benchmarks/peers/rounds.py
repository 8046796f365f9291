"""Rounds in turns, held to equal work, and their ratio: plain functions."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from benchmarks.peers.work import Round

_COUNTS = {"images": "judged images", "evaluations": "network evaluations", "optimizer_steps": "optimizer steps"}


def check_equal(rounds: Mapping[str, Round]) -> None:
    """Refuse sides that do not do the same in an update, but for the evaluations by which a run is only watched.

    Raises:
        ValueError: In one sentence.
    """
    (first, ours), *others = rounds.items()
    for name, theirs in others:
        for count, called in _COUNTS.items():
            here, there = _worked(ours, count), _worked(theirs, count)
            if here != there:
                raise ValueError(
                    f"{first} has {here:,} {called} an update and {name} has {there:,}; a ratio of their times would "
                    "compare different work."
                )


def speed(of: Round, images: int) -> float:
    """Images a second, of the median update."""
    return images / statistics.median(of.seconds)


def ratio(rounds: Sequence[Mapping[str, Round]], ours: str, theirs: str) -> float:
    """How many times as fast ours is: the median over rounds, in each of the two that were neighbours.

    Raises:
        ValueError: If they did not do the same.
    """
    for each in rounds:
        check_equal({ours: each[ours], theirs: each[theirs]})
    return statistics.median(
        statistics.median(each[theirs].seconds) / statistics.median(each[ours].seconds) for each in rounds
    )


def _worked(of: Round, count: str) -> int:
    return getattr(of, count) - (of.watched if count == "evaluations" else 0)
