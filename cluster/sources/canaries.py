"""Every actor of a reward on pictures whose scores are known, before anything is sampled."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from cluster.config import Config
from cluster.crew.pool import Pool
from rewards.canary import read_picture
from rewards.errors import RewardUnavailable

log = logging.getLogger(__name__)


def check_canaries(config: Config, rewards: Mapping[tuple[str, ...], Pool]) -> None:
    """Ask about the canaries of each reward where it lives: each actor, since each may have packages of its own.

    Args:
        config: Of the run.
        rewards: Pools of reward actors, by the names of the rewards that they hold.

    Raises:
        RewardUnavailable: In a sentence for each reward that says something else than is known.
    """
    asked: list[tuple[str, ray.ObjectRef]] = []
    for names, pool in rewards.items():
        known = {name: [(one, read_picture(one.picture)) for one in config.canaries(name)] for name in names}
        if having := " and ".join(repr(name) for name in names if known[name]):
            asked += [
                (f"{having} were not checked in reward actor {number} of {len(pool.actors)}", actor.wrong.remote(known))
                for number, actor in enumerate(pool.actors, 1)
            ]
    wrong: list[str] = []
    for unchecked, answer in asked:
        try:
            wrong += ray.get(answer, timeout=config.failures.patience.score)
        except RayActorError:  # its pool deals with that
            log.warning("The canaries of %s, which is not up or was lost.", unchecked)
        except GetTimeoutError:
            log.warning(
                "The canaries of %s, which did not answer within failures.patience.score=%g seconds.",
                unchecked,
                config.failures.patience.score,
            )
    if wrong:
        raise RewardUnavailable(f"Nothing is trained. {' '.join(dict.fromkeys(wrong))}")
