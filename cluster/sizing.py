"""How many samplers, reward actors and learner ranks a run needs, from what its iterations have cost: plain rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cluster.measures.roles import LEARNER, SAMPLERS, Sized, pipelined, synchronous
from cluster.pages.groups import read_config
from cluster.records.costs import Costs, costs_of
from cluster.records.reading import CONFIG, Records
from cluster.text import shown

DRIVER = 0.0024  # seconds of the driver's CPU a request, with Ray's calls: python -m benchmarks.scale (docs/sizing.md)
_PACES = {"learner.ranks": LEARNER, "samplers.count": SAMPLERS, "reward_actors.count": "reward actors"}


def sizing(name: str, words: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A row for each role, then for the iteration and the driver.

    Args:
        name: The folder of a run that has been measured, or the config file in it.
        words: Settings `key=value` that are to differ: the size of an iteration, and the number of one role, which then
            sets the pace; else the learner does, with as many ranks as the run has.

    Raises:
        LookupError: In one sentence, if there is no such run, its records do not say what it costs, or a setting is
            another.
    """
    costs = _measured(name)
    given = _given(words, costs.sizes)
    images, asked = costs.images, costs.asked
    for key, own in costs.sizes.items():
        images = images * given.get(key, own) / own
        asked = asked * given.get(key, own) / own
    paces, count = LEARNER, costs.ranks
    for key in _PACES.keys() & given.keys():
        paces, count = _PACES[key], given[key]
    each = {SAMPLERS: costs.sampling, **{f"actors of {names}": cost for names, cost in costs.scoring.items()}}
    each[LEARNER] = costs.learning
    if paces == _PACES["reward_actors.count"]:
        if not costs.scoring:
            raise LookupError(f"The run in {shown(name)!r} has asked no reward actor, so their number sets no pace.")
        paces = next(role for role in each if role not in (SAMPLERS, LEARNER))
    requests = math.ceil(asked / costs.request_size)
    work = {role: cost * images for role, cost in each.items()}
    return _rows(
        costs, work, images, requests, *(size(work, paces, count, requests) for size in (synchronous, pipelined))
    )


def _rows(
    costs: Costs, work: dict[str, float], images: float, requests: int, waiting: Sized, ahead: Sized
) -> list[dict[str, Any]]:
    had = {SAMPLERS: costs.samplers, LEARNER: costs.ranks}
    rows: list[dict[str, Any]] = [
        {
            "name": role,
            "busy_seconds": seconds,
            "images_per_second": images / seconds,
            "run": had.get(role, costs.reward_actors),
            "synchronous": waiting.counts[role],
            "max_staleness=1": ahead.counts[role],
        }
        for role, seconds in work.items()
    ]
    both = {"synchronous": waiting, "max_staleness=1": ahead}
    rows.append(
        {"name": "seconds an iteration", "run": costs.iteration} | {case: sized.seconds for case, sized in both.items()}
    )
    rows.append(
        {"name": "images a second", "run": costs.images / costs.iteration}
        | {case: images / sized.seconds for case, sized in both.items()}
    )
    rows.append({"name": "share of it that what sets the pace works"} | {case: s.busy for case, s in both.items()})
    rows.append(
        {"name": "share of it that the driver works", "busy_seconds": requests * DRIVER}
        | {"run": math.ceil(costs.asked / costs.request_size) * DRIVER / costs.iteration}
        | {case: requests * DRIVER / sized.seconds for case, sized in both.items()}
    )
    return rows


def _measured(name: str) -> Costs:
    folder = Path(name).expanduser()
    if folder.name == CONFIG:
        folder = folder.parent
    if folder.is_file():
        raise LookupError(
            f"{shown(name)!r} is a configuration and no run, and costs are measured: let it do a few iterations, "
            f"python -m cluster.local {shown(name)} iterations=4, and name the folder of that run."
        )
    if not (folder / CONFIG).is_file():
        raise LookupError(f"There is no run in {shown(name)!r} (no {CONFIG}); name the folder of one.")
    return costs_of(Records(folder), read_config(folder))


def _given(words: Sequence[str], sizes: Iterable[str]) -> dict[str, int]:
    found, known = {}, (*sizes, *_PACES)
    for word in words:
        key, _, value = word.partition("=")
        if key not in known:
            raise LookupError(
                f"{shown(word)!r} changes what the run was measured with; only {', '.join(known)} may be other here, "
                "and for all else a short run with it says the costs."
            )
        if not (value.isascii() and value.isdigit() and int(value)):
            raise LookupError(f"{shown(word)!r} is no number of at least 1.")
        found[key] = int(value)
    if len(paces := [key for key in _PACES if key in found]) > 1:
        raise LookupError(f"Only one role sets the pace; give one of {' and '.join(paces)}.")
    return found
