"""The learner as the driver sees it: one actor, or several ranks that share each batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from learner.ranks import RankLost

_ANSWER = 5.0  # seconds in which an idle rank answers, when it is asked whether it lives


class LearnerGroup:
    """Calls every rank where all must take part, and takes results from the first.

    Args:
        actors: Handles of the learner actors, one a rank.
        timeout: Seconds that a rank waits for the others until they count as lost.
    """

    def __init__(self, actors: Sequence[Any], timeout: float) -> None:
        self.actors, self._timeout = actors, timeout

    def join(self, patience: float) -> None:
        """Wait until every rank's model is loaded, and let the ranks meet; one alone needs no process group.

        Raises:
            GetTimeoutError: If one is not up after `patience` seconds.
        """
        addresses = all_of([actor.__ray_call__.remote(_address) for actor in self.actors], patience)
        if len(self.actors) > 1:
            port = ray.get(self.actors[0].listen.remote(addresses[0]))
            arguments = (addresses, port, self._timeout)
            all_of([actor.join.remote(rank, *arguments) for rank, actor in enumerate(self.actors)])

    def update(self, rewards: Any, trajectories: Sequence[ray.ObjectRef]) -> tuple[list[ray.ObjectRef], ray.ObjectRef]:
        """Apply a batch on every rank, see `LearnerActor.update`.

        Returns:
            Each rank's `Update`, the first rank's first: wait for all of them, because the others notice the loss of
            one late or never. And the weights.
        """
        started = [actor.update.options(num_returns=2).remote(rewards, *trajectories) for actor in self.actors]
        return [update for update, _ in started], started[0][1]

    def weights(self, averaged: bool = False) -> ray.ObjectRef:
        """The adapter as it is now, or its exponential average, once it is there.

        Raises:
            RayActorError: If the learner was lost; whoever reads the weights would otherwise be the first to notice.
        """
        reference = self.actors[0].weights.remote(averaged)
        ray.get(self.actors[0].__ray_ready__.remote())  # an actor's calls end in order
        return reference

    def save(self, folder: str, keep: int, extra: dict[str, Any]) -> None:
        """Write a checkpoint, see `LearnerActor.save`."""
        ray.get(self.actors[0].save.remote(folder, keep, extra))

    def restore(self, path: str) -> tuple[int, dict[str, Any]]:
        """Continue every rank from a checkpoint that all of them can read; returns its version and the driver's state.

        Raises:
            CheckpointError: If it is damaged.
        """
        return all_of([actor.restore.remote(path) for actor in self.actors])[0]

    def lost(self, error: Exception) -> str | None:
        """What an exception tells the loss of, in a sentence; `None` if it tells of something else.

        A rank that is killed takes the others' connections with it. Whichever error arrives first, the rank that died,
        or no longer answers, is the one that is named. A node that is lost takes with it what only its object store
        held: trajectories that the learner, or weights that a sampler, had not fetched yet.
        """
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, ObjectLostError):
            return "Trajectories or weights went with the node that held them."
        if not isinstance(cause, RankLost | RayActorError):
            return None
        if len(self.actors) == 1:
            return str(error)
        asked = [actor.__ray_ready__.remote() for actor in self.actors]
        ray.wait(asked, num_returns=len(asked), timeout=_ANSWER)
        for rank, answer in enumerate(asked):
            try:
                ray.get(answer, timeout=0)
            except GetTimeoutError:
                return f"Learner rank {rank} does not answer."
            except RayActorError as death:
                return f"Learner rank {rank} died: {death}"
        return str(cause)


def all_of(references: Sequence[ray.ObjectRef], timeout: float | None = None) -> list[Any]:
    """The values of references; the first failure is raised when it happens, whatever else is still running.

    Raises:
        GetTimeoutError: If nothing new is there within `timeout` seconds.
    """
    waiting = list(references)
    while waiting:
        ready, waiting = ray.wait(waiting, timeout=timeout)
        if not ready:
            raise GetTimeoutError
        ray.get(ready)
    return ray.get(list(references))


def _address(_: Any) -> str:
    return ray.util.get_node_ip_address()
