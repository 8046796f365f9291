"""How many of each role keep one of them busy: arithmetic of measured costs, linear in the images.

Let an iteration have B images in Q requests, a role r need w_r seconds for it if it is alone, and n_r be its number.

    max_staleness >= 1   roles work at the same time, and an iteration takes   max_r w_r / n_r
    synchronous          the learner l waits for samplers s and rewards j, and these for the learner:

                         max(ceil(Q / n_s) w_s / Q, max_j w_j / n_j)  +  w_l / n_l

The role whose number is given sets the pace. Of the others there are as many as keep up with it: where roles work at
the same time as many as need no longer than it, where they take turns as many as let it work `BUSY` of the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

BUSY = 0.8  # of a synchronous iteration
SAMPLERS, LEARNER = "samplers", "learner ranks"  # whatever else there is are reward actors


@dataclass(frozen=True)
class Sized:
    """Numbers of each role and what they reach."""

    counts: dict[str, int]
    seconds: float  # of an iteration
    busy: float  # share of them in which the role that sets the pace works


def pipelined(work: Mapping[str, float], paces: str, count: int, requests: int) -> Sized:
    """Sizes where rollouts may be stale.

    Args:
        work: Seconds of each role an iteration, if it is alone.
        paces: The role whose number is given; a reward actor stands for all of them.
        count: That number.
        requests: Of an iteration; two iterations of them are under way at most, and more samplers have nothing to do.
    """
    pace = max(work[role] / count for role in _alike(work, paces))
    counts = {role: count if role in _alike(work, paces) else _enough(seconds, pace) for role, seconds in work.items()}
    counts[SAMPLERS] = min(counts[SAMPLERS], 2 * requests)
    seconds = max(work[role] / counts[role] for role in work)
    return Sized(counts, seconds, pace / seconds)


def synchronous(work: Mapping[str, float], paces: str, count: int, requests: int) -> Sized:
    """Sizes where samplers and learner take turns; arguments as `pipelined`'s."""
    given = _alike(work, paces)
    pace = max(work[role] / count for role in given)
    turn = pace * (1 - BUSY) / BUSY  # of those that do not work at the same time
    counts = {}
    for role, seconds in work.items():
        together = (role == LEARNER) == (paces == LEARNER)
        counts[role] = count if role in given else _enough(seconds, pace if together else turn)
    counts[SAMPLERS] = min(counts[SAMPLERS], requests)
    seconds = turns(work, counts, requests)
    return Sized(counts, seconds, pace / seconds)


def turns(work: Mapping[str, float], counts: Mapping[str, int], requests: int) -> float:
    """Seconds of a synchronous iteration."""
    rounds = math.ceil(requests / counts[SAMPLERS])  # a request is not shared
    drawn = rounds * work[SAMPLERS] / requests
    judged = max((work[role] / counts[role] for role in work if role not in (SAMPLERS, LEARNER)), default=0.0)
    return max(drawn, judged) + work[LEARNER] / counts[LEARNER]


def _alike(work: Mapping[str, float], role: str) -> list[str]:
    """The roles that have the number of one: all reward actors have."""
    return [role] if role in (SAMPLERS, LEARNER) else [other for other in work if other not in (SAMPLERS, LEARNER)]


def _enough(seconds: float, within: float) -> int:
    return max(1, math.ceil(seconds / within - 1e-9))
