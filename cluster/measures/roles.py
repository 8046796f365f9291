"""How many of each role keep one of them busy: arithmetic of measured costs, linear in the images.

Let an iteration have B images in Q requests, a role r need w_r seconds for it if it is alone, and n_r be its number. A
request is one call to a sampler, then one to an actor of each kind of reward actors, and no call is shared.

    max_staleness >= 1   roles work at the same time, with 2 Q requests under way, so n_r <= 2 Q but for the learner,
                         and an iteration takes   max_r w_r / n_r
    synchronous          the learner l waits for samplers and rewards, and these for the learner:

                         max_{r != l} ceil(Q / n_r) w_r / Q  +  w_l / n_l

The role whose number is given sets the pace. Of the others there are as many as keep up with it: where roles work at
the same time as many as need no longer than it, where they take turns as many as let it work `BUSY` of the time; and
no more than have something to do.
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
        requests: Of an iteration.
    """
    given = _alike(work, paces)
    calls = {role: math.inf if role == LEARNER else 2 * requests for role in work}
    pace = max(work[role] / min(count, calls[role]) for role in given)
    wanted = {role: count if role in given else _enough(seconds, pace) for role, seconds in work.items()}
    counts = {role: int(min(number, calls[role])) for role, number in wanted.items()}
    seconds = max(work[role] / counts[role] for role in work)
    return Sized(counts, seconds, pace / seconds)


def synchronous(work: Mapping[str, float], paces: str, count: int, requests: int) -> Sized:
    """Sizes where samplers and learner take turns; arguments as `pipelined`'s."""
    given = _alike(work, paces)
    pace = max(_turn(role, work[role], count, requests) for role in given)
    turn = pace * (1 - BUSY) / BUSY  # of those that do not work at the same time
    counts = {}
    for role, seconds in work.items():
        within = pace if (role == LEARNER) == (paces == LEARNER) else turn
        if role == LEARNER:
            counts[role] = count if role in given else _enough(seconds, within)
        else:
            counts[role] = min(count, requests) if role in given else _least(seconds, within, requests)
    seconds = turns(work, counts, requests)
    return Sized(counts, seconds, pace / seconds)


def turns(work: Mapping[str, float], counts: Mapping[str, int], requests: int) -> float:
    """Seconds of a synchronous iteration."""
    each = {role: _turn(role, seconds, counts[role], requests) for role, seconds in work.items()}
    return max(seconds for role, seconds in each.items() if role != LEARNER) + each[LEARNER]


def _turn(role: str, seconds: float, count: int, requests: int) -> float:
    """Seconds that so many of a role take for an iteration, alone."""
    return seconds / count if role == LEARNER else -(-requests // count) * seconds / requests


def _alike(work: Mapping[str, float], role: str) -> list[str]:
    """The roles that have the number of one: all reward actors have."""
    return [role] if role in (SAMPLERS, LEARNER) else [other for other in work if other not in (SAMPLERS, LEARNER)]


def _enough(seconds: float, within: float) -> int:
    """The least number that share some seconds of work evenly and are done in time."""
    return max(1, math.ceil(seconds / within - 1e-9))


def _least(seconds: float, within: float, requests: int) -> int:
    """The least number that do whole requests and are done in time, or one a request where that is not enough."""
    rounds = max(1, math.floor(within * requests / seconds + 1e-9))  # calls that each has the time for
    return -(-requests // rounds)
