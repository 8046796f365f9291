"""The learner as the driver sees it: one actor, or several ranks that share each batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayTaskError

from cluster.crew.runtime_envs import cause_of
from cluster.errors import Hung
from learner.actor import Which
from learner.objectives.objective import Plan
from learner.ranks import RankLost

_ANSWER = 5.0  # seconds in which an idle rank answers, when it is asked whether it lives


class LearnerGroup:
    """Calls every rank where all must take part, and takes results from the first.

    Args:
        actors: Handles of the learner actors, one a rank.
        timeout: Seconds that a rank waits for the others until they count as lost.
        patience: Seconds after which what the driver waits for here is taken to hang.
    """

    def __init__(self, actors: Sequence[Any], timeout: float, patience: float = 3600) -> None:
        self.actors, self._timeout, self._patience = actors, timeout, patience

    def join(self, patience: float) -> None:
        """Wait until every rank's model is loaded, and let the ranks meet; one alone needs no process group.

        Raises:
            GetTimeoutError: If one is not up after `patience` seconds.
        """
        addresses = all_of([actor.__ray_call__.remote(_address) for actor in self.actors], patience)
        if len(self.actors) > 1:
            (port,) = all_of([self.actors[0].listen.remote(addresses[0])], patience)
            arguments = (addresses, port, self._timeout)
            all_of([actor.join.remote(rank, *arguments) for rank, actor in enumerate(self.actors)], patience)

    def plans(self, batches: int) -> tuple[Plan, ...]:
        """What the objective wants the rollouts of so many batches to be like, one a batch from the run's first.

        Raises:
            Hung: If the learner does not answer.
        """
        return self._ask(self.actors[0].plans, batches)

    def work(self, groups: int, samples: int) -> tuple[int, int, int]:
        """Optimizer steps, transitions and bytes of a batch, see `LearnerActor.work`; raises as `plans`."""
        return self._ask(self.actors[0].work, groups, samples)

    def steps(self) -> str:
        """Where the adapter acts, in a line; raises as `plans`."""
        return self._ask(self.actors[0].steps)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Refuse what the model would not read whole, see `LearnerActor.check_prompts`; raises as `plans` too."""
        self._ask(self.actors[0].check_prompts, prompts)

    def _ask(self, method: Any, *arguments: Any) -> Any:
        try:
            return ray.get(method.remote(*arguments), timeout=self._patience)
        except GetTimeoutError:
            self._hangs("said what it needs")

    def update(
        self,
        scores: Mapping[str, np.ndarray],
        trajectories: Sequence[ray.ObjectRef],
        candidates: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[list[ray.ObjectRef], ray.ObjectRef]:
        """Apply a batch on every rank, see `LearnerActor.update`.

        Returns:
            Each rank's `Update`, the first rank's first: wait for all of them, because the others notice the loss of
            one late or never. And the weights.
        """
        started = [
            actor.update.options(num_returns=2).remote(scores, *trajectories, candidates=candidates)
            for actor in self.actors
        ]
        return [update for update, _ in started], started[0][1]

    def weights(self, which: Which = "acting") -> ray.ObjectRef:
        """One of the learner's adapters (`LearnerActor.weights`), once it is there.

        Raises:
            RayActorError: If the learner was lost; whoever reads the weights would otherwise be the first to notice.
            Hung: If it does not answer; a sampler that is to act with them would be taken to hang in its place.
        """
        reference = self.actors[0].weights.remote(which)
        try:
            ray.get(self.actors[0].__ray_ready__.remote(), timeout=self._patience)  # an actor's calls end in order
        except GetTimeoutError:
            self._hangs("given its weights")
        return reference

    def save(self, folder: str, keep: int) -> None:
        """Write a checkpoint, see `LearnerActor.save`.

        Raises:
            Hung: If the learner does not answer.
        """
        try:
            ray.get(self.actors[0].save.remote(folder, keep), timeout=self._patience)
        except GetTimeoutError:
            self._hangs("written a checkpoint")

    def restore(self, path: str) -> int:
        """Continue every rank from a checkpoint that all of them can read; returns its version.

        Raises:
            CheckpointError: If it is damaged.
            Hung: If one does not answer.
        """
        try:
            return all_of([actor.restore.remote(path) for actor in self.actors], self._patience)[0]
        except GetTimeoutError:
            self._hangs("read its checkpoint")

    def _hangs(self, verb: str) -> NoReturn:
        raise Hung(f"The learner has not {verb} in {self._patience:g} s (failures.patience.learn).")

    def lost(self, error: Exception, others: Mapping[str, Any] | None = None) -> str | None:
        """Whose loss an exception tells of, in a sentence; `None` if it tells of something else.

        The loss of one thing shows first in what depended on it: a rank that is killed takes the others' connections
        with it, and a sampler cannot ask a weight store that is gone. So whichever error arrives first, all are asked,
        and the one that died, or no longer answers, is named. One whose constructor raised is not lost: it would raise
        again.

        Args:
            error: What arrived.
            others: Actors by name without which nothing goes on either.
        """
        cause = error.cause if isinstance(error, RayTaskError) else error
        if isinstance(cause, Hung):
            return str(cause)
        named = (
            [f"Learner rank {rank}" for rank in range(len(self.actors))] if len(self.actors) > 1 else ["The learner"]
        )
        asked = dict(zip(named, self.actors, strict=True)) | dict(others or {})
        answers = [actor.__ray_ready__.remote() for actor in asked.values()]
        ray.wait(answers, num_returns=len(answers), timeout=_ANSWER)
        lost_touch = isinstance(cause, RankLost | RayActorError | ObjectLostError | GetTimeoutError)
        for who, answer in zip(asked, answers, strict=True):
            try:
                ray.get(answer, timeout=0)
            except GetTimeoutError:
                if lost_touch:
                    return f"{who} does not answer."
            except RayActorError as death:
                return None if death.actor_init_failed else f"{who} died: {cause_of(death)}"
        if isinstance(cause, ObjectLostError):
            return "Trajectories or weights were lost; they went with the node that held them."
        return str(cause) if lost_touch else None


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
