"""A pool of equal actors that survives their deaths: calls wait for a free actor, and run again when theirs is lost."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, RayActorError

log = logging.getLogger(__name__)

# One call that runs and one that waits: the actor is never idle, and never far behind.
MAX_IN_FLIGHT = 2


class ActorsLost(RuntimeError):
    """Actors died more often than the run allows."""


@dataclass(frozen=True)
class Call:
    """A call that some actor of the pool is to make.

    Args:
        job: What the caller calls it by.
        make: Starts it on an actor and returns its references; the first is the one to wait for and is cheap to fetch.
    """

    job: Any
    make: Callable[[ActorHandle], Sequence[ray.ObjectRef]]


class Pool:
    """Actors of one role.

    Args:
        role: What they are called in messages.
        actors: Created with `max_restarts`, so that Ray brings each back; each answers `ready()`.
        max_deaths: Give up when they have died more often than this.
    """

    def __init__(self, role: str, actors: Sequence[ActorHandle], max_deaths: int) -> None:
        self.actors, self._role, self._max_deaths = actors, role, max_deaths
        self._waiting: deque[Call] = deque()
        self._running: dict[ray.ObjectRef, tuple[int, Call]] = {}
        self._probes: dict[ray.ObjectRef, int] = {}  # of actors that were lost and are coming back
        self.deaths = 0

    def submit(self, call: Call) -> None:
        """Queue a call; it starts at once if an actor is free."""
        self._waiting.append(call)
        self._dispatch()

    @property
    def depths(self) -> tuple[int, int]:
        """Calls that wait for an actor, and calls that are with one."""
        return len(self._waiting), len(self._running)

    @property
    def references(self) -> list[ray.ObjectRef]:
        """Everything whose completion `settle` wants to hear of."""
        return [*self._running, *self._probes]

    def settle(self, reference: ray.ObjectRef) -> tuple[Any, Any] | None:
        """Take note that a reference is ready.

        Returns:
            The call's job and the value of its first reference, or the exception that it raised (a `RayTaskError`);
            `None` if there is nothing to report, because the call's actor was lost and the call has been queued again.

        Raises:
            ActorsLost: If actors have died too often.
        """
        if reference in self._probes:
            actor = self._probes.pop(reference)
            try:
                ray.get(reference)
            except ActorUnavailableError:
                self._probe(actor)  # still on its way back, not another death
            except RayActorError as error:
                self._lost(actor, error)
            self._dispatch()
            return None
        actor, call = self._running.pop(reference)
        try:
            value = ray.get(reference)
        except RayActorError as error:
            self._waiting.appendleft(call)
            if actor not in self._probes.values():
                self._lost(actor, error)
            self._dispatch()
            return None
        except ray.exceptions.RayTaskError as error:
            value = error
        self._dispatch()
        return call.job, value

    def _lost(self, actor: int, error: RayActorError) -> None:
        self.deaths += 1
        log.warning("%s %d was lost; its calls run again. (%s)", self._role, actor, str(error).splitlines()[0])
        if self.deaths > self._max_deaths:
            raise ActorsLost(
                f"Actors of the role {self._role!r} died {self.deaths} times, more than failures.max_deaths="
                f"{self._max_deaths} allows; the last one said: {str(error).splitlines()[0]}"
            ) from error
        self._probe(actor)

    def _probe(self, actor: int) -> None:
        # Answered when Ray has restarted the actor and its model is loaded again.
        self._probes[self.actors[actor].ready.remote()] = actor

    def _dispatch(self) -> None:
        while self._waiting:
            load = [0] * len(self.actors)
            for actor, _ in self._running.values():
                load[actor] += 1
            free = [i for i, n in enumerate(load) if n < MAX_IN_FLIGHT and i not in self._probes.values()]
            if not free:
                return
            actor = min(free, key=load.__getitem__)
            call = self._waiting.popleft()
            self._running[call.make(self.actors[actor])[0]] = (actor, call)
