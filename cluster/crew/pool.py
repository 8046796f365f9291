"""A pool of equal actors that survives their deaths: calls wait for a free actor, and run again when theirs is lost.

An actor that hangs is killed and counts as lost. One that is not up yet (the cluster has no room for it, or its node
went) joins when it is. What a call raises is the call's result, also where it tells of another actor's death. What a
call costs does not depend on how many actors or calls there are.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, ObjectLostError, RayActorError, RayTaskError, RuntimeEnvSetupError

from cluster.crew.runtime_envs import cannot_start, cause_of
from cluster.errors import ActorsLost, StartError

log = logging.getLogger(__name__)

# One call that runs and one that waits: the actor is never idle, and never far behind.
MAX_IN_FLIGHT = 2
_KEPT = 4096  # pieces of work that nobody has asked for yet


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
        max_deaths: Give up when they have died more often than this since `progressed`.
        patience: Seconds after which a call that has not returned is taken to hang.
    """

    def __init__(
        self, role: str, actors: Sequence[ActorHandle], max_deaths: int, patience: float = float("inf")
    ) -> None:
        self.actors, self._role, self._max_deaths, self._patience = actors, role, max_deaths, patience
        self._waiting: deque[Call] = deque()
        self._running: dict[ray.ObjectRef, _Running] = {}
        self._calls: list[list[_Running]] = [[] for _ in actors]  # that are with each actor
        # Actors that can be given a call, by how many they have; the one that has had no more for longest comes first.
        self._free: tuple[OrderedDict[int, None], ...] = tuple(OrderedDict() for _ in range(MAX_IN_FLIGHT))
        self._probes: dict[ray.ObjectRef, int] = {}  # of actors that are not up, or not up again, yet
        self._down: set[int] = set()  # those actors
        self._announce: Callable[[ray.ObjectRef], None] = lambda reference: None
        self._first_death: str | None = None
        self._deaths_before = 0  # the last progress
        self._start_patience, self._last_up = float("inf"), time.monotonic()
        self.deaths = 0
        self._work: deque[tuple[int, float, float]] = deque(maxlen=_KEPT)
        for actor in range(len(actors)):
            self._probe(actor)

    def start(self, count: int, patience: float) -> None:
        """Wait until `count` of the actors are up; the others join when they are.

        Raises:
            StartError: If they are not within `patience` seconds, or cannot be.
        """
        deadline = time.monotonic() + patience
        self._start_patience = patience
        while self.up < count:
            left = deadline - time.monotonic()
            ready, _ = ray.wait(list(self._probes), num_returns=1, timeout=max(left, 0), fetch_local=False)
            if not ready:
                raise StartError(
                    f"Only {self.up} of {count} actors of the role {self._role!r} were up "
                    f"after failures.patience.start={patience:g} s; does the cluster have room for them?"
                )
            self.settle(ready[0])

    @property
    def up(self) -> int:
        """How many actors are up."""
        return len(self.actors) - len(self._probes)

    def progressed(self) -> None:
        """The run goes on in spite of the deaths so far: they no longer count towards `max_deaths`."""
        self._deaths_before, self._first_death = self.deaths, None

    def submit(self, call: Call) -> None:
        """Queue a call; it starts at once if an actor is free."""
        self._waiting.append(call)
        self._dispatch()

    @property
    def depths(self) -> tuple[int, int]:
        """Calls that wait for an actor, and calls that are with one."""
        return len(self._waiting), len(self._running)

    def take_work(self) -> list[tuple[int, float, float]]:
        """The calls that have ended since this was last asked: actor, start (seconds since the epoch), seconds."""
        taken = list(self._work)
        self._work.clear()
        return taken

    @property
    def references(self) -> list[ray.ObjectRef]:
        """Everything whose completion `settle` wants to hear of."""
        return [*self._running, *self._probes]

    def announce(self, to: Callable[[ray.ObjectRef], None]) -> None:
        """Tell of each of the `references`: of those that there are, and from now on of every one that is new."""
        self._announce = to
        for reference in self.references:
            to(reference)

    def settle(self, reference: ray.ObjectRef) -> tuple[Any, Any] | None:
        """Take note that a reference is ready.

        Returns:
            The call's job and the value of its first reference, or the exception that it raised (a `RayTaskError`);
            `None` if there is nothing to report, because the call's actor or its result was lost and the call has been
            queued again.

        Raises:
            ActorsLost: If actors have died too often.
            StartError: If one cannot start (again).
        """
        if reference in self._probes:
            actor = self._probes.pop(reference)
            self._down.remove(actor)
            try:
                ray.get(reference)
            except ActorUnavailableError:
                self._probe(actor)  # still on its way back, not another death
            except RuntimeEnvSetupError as error:
                raise cannot_start(f"The {self._role}", error) from error
            except RayActorError as error:
                self._lost(actor, error)
            self._offer(actor)
            self._dispatch()
            return None
        run = self._running.pop(reference)
        actor, call = run.actor, run.call
        self._calls[actor].remove(run)
        for other in self._calls[actor]:
            other.since = time.monotonic()  # it waited behind this one
        self._offer(actor)
        try:
            value = ray.get(reference)
        except RayTaskError as error:  # raised in the call, also of what it needed: an actor, lost arguments
            value = error
        except RuntimeEnvSetupError as error:  # it came back on another node
            raise cannot_start(f"The {self._role}", error) from error
        except RayActorError as error:
            self._waiting.appendleft(call)
            if actor not in self._down:
                self._lost(actor, error)
            self._dispatch()
            return None
        except ObjectLostError:  # the result itself, which its node took with it
            self._waiting.appendleft(call)
            self._dispatch()
            return None
        seconds = time.monotonic() - run.since
        if seconds >= 0:  # of one that was killed for its silence nobody knows
            self._work.append((actor, time.time() - seconds, seconds))
        self._dispatch()
        return call.job, value

    def check(self) -> None:
        """Kill the actors whose call has been running for longer than the patience; their calls run again.

        Raises:
            ActorsLost: If none of the actors has been up for as long as they had to start.
        """
        now = time.monotonic()
        if self.up:
            self._last_up = now
        elif now - self._last_up > self._start_patience:
            raise ActorsLost(
                f"No actor of the role {self._role!r} has come back within failures.patience.start="
                f"{self._start_patience:g} s; does the cluster still have room for one?"
            )
        for actor in {run.actor for run in self._running.values() if now - run.since > self._patience}:
            log.warning("%s %d has not answered for %.0f s: it is restarted.", self._role, actor, self._patience)
            ray.kill(self.actors[actor], no_restart=False)
            for run in self._calls[actor]:
                run.since = float("inf")  # killed once; the news of it is under way

    def _lost(self, actor: int, error: RayActorError) -> None:
        if error.actor_init_failed:  # its constructor raised: it would again
            raise cannot_start(f"The {self._role}", error) from error
        self.deaths += 1
        cause = cause_of(error)
        self._first_death = self._first_death or cause
        log.warning("%s %d was lost; its calls run again. (%s)", self._role, actor, cause)
        if (deaths := self.deaths - self._deaths_before) > self._max_deaths:
            raise ActorsLost(
                f"Actors of the role {self._role!r} died {deaths} times, more than failures.max_deaths="
                f"{self._max_deaths} allows between two iterations; the first one said: {self._first_death}"
            ) from error
        self._probe(actor)

    def _probe(self, actor: int) -> None:
        # Answered when Ray has restarted the actor and its model is loaded again.
        reference: ray.ObjectRef = self.actors[actor].ready.remote()
        self._probes[reference] = actor
        self._down.add(actor)
        self._offer(actor)
        self._announce(reference)

    def _offer(self, actor: int) -> None:
        """Put an actor with those that can be given a call, if it is one."""
        for free in self._free:
            free.pop(actor, None)
        if actor not in self._down and (load := len(self._calls[actor])) < MAX_IN_FLIGHT:
            self._free[load][actor] = None

    def _dispatch(self) -> None:
        while self._waiting:
            actor = next((next(iter(free)) for free in self._free if free), None)
            if actor is None:
                return
            run = _Running(actor, self._waiting.popleft(), time.monotonic())
            reference = run.call.make(self.actors[actor])[0]
            self._running[reference] = run
            self._calls[actor].append(run)
            self._offer(actor)
            self._announce(reference)


@dataclass(eq=False)
class _Running:
    """A call under way."""

    actor: int
    call: Call
    since: float  # when it became the first of its actor's calls, by the monotonic clock
