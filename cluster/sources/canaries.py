"""Every actor of a reward on pictures whose scores are known, before anything is sampled."""

from __future__ import annotations

from collections.abc import Mapping

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from cluster.config import Config
from cluster.crew.pool import Pool
from rewards.canary import read_picture
from rewards.errors import RewardUnavailable


def check_canaries(config: Config, rewards: Mapping[tuple[str, ...], Pool]) -> None:
    """Ask about the canaries of each reward where it lives: each actor, since each may have packages of its own.

    Args:
        config: Of the run.
        rewards: Pools of reward actors, by the names of the rewards that they hold.

    Raises:
        RewardUnavailable: In a sentence for each reward that says something else than is known.
    """
    asked: list[ray.ObjectRef] = []
    for names, pool in rewards.items():
        known = {name: [(one, read_picture(one.picture)) for one in config.canaries(name)] for name in names}
        if any(known.values()):
            asked += [actor.wrong.remote(known) for actor in pool.actors]
    wrong: list[str] = []
    for answer in asked:
        try:
            wrong += ray.get(answer, timeout=config.failures.patience.score)
        except (RayActorError, GetTimeoutError):
            continue  # it is not up, or was lost, which its pool deals with
    if wrong:
        raise RewardUnavailable(f"Nothing is trained. {' '.join(dict.fromkeys(wrong))}")
