"""The actors at work: samplers draw what is missing, it is written down, and the rewards judge it, request by request.

Pictures reach the rewards from disk, so that an evaluation that goes on does what an unbroken one does, and no more of
them are in memory than the actors are busy with.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayTaskError

from cluster.config import Config
from cluster.crew.arrivals import Arrivals
from cluster.crew.crew import new_tag, start_rewards, start_samplers, start_store
from cluster.crew.placement import Placement
from cluster.crew.pool import Call, Pool
from cluster.matrix.crews import Work, share_out
from cluster.matrix.draws import Draw
from cluster.matrix.store import Column, Store
from cluster.stopping import at_once
from rewards.errors import RewardFailed

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Job:
    draw: Draw
    number: int  # of the request
    column: Column | None = None  # `None`: it is to be drawn
    weights: ray.ObjectRef | None = None  # that draw it
    references: Sequence[ray.ObjectRef] = field(default=())


def _drawing(job: _Job) -> Callable[[ActorHandle], Sequence[ray.ObjectRef]]:
    def make(sampler: Any) -> Sequence[ray.ObjectRef]:
        request = job.draw.requests[job.number]
        job.references = sampler.rollout.options(num_returns=3).remote(request, 0, job.weights)
        return job.references

    return make


def missing(store: Store, draws: Sequence[Draw], columns: Sequence[Column]) -> tuple[list[_Job], list[_Job]]:
    """What is still to be drawn, and what to be asked."""
    every = [(draw, number) for draw in draws for number in range(len(draw.requests))]
    undrawn = [_Job(draw, number) for draw, number in every if not store.drawn(draw, number)]
    unasked = [
        _Job(draw, number, column)
        for draw, number in every
        for column in columns
        if (column.what == "scores" or not draw.crossed) and store.answer(draw, number, column) is None
    ]
    return undrawn, unasked


def work(
    config: Config,
    place: Callable[[], Placement],
    store: Store,
    draws: Sequence[Draw],
    columns: Sequence[Column],
    progress: Callable[[int, int], None],
) -> None:
    """Draw and judge what is not there yet.

    Args:
        config: Of samplers and rewards.
        place: Starts or joins Ray, if that has not been done, and says where the actors go.
        store: Where everything is kept, as soon as it is there.
        draws: What is to be drawn.
        columns: What is asked about every picture.
        progress: Is told how many steps of how many are done.

    Raises:
        StartError: If an actor cannot start, or there is no room for them.
        ActorsLost: If actors died too often.
        RewardUnavailable: In one sentence, if a reward is gone for good, or answers with something else than scores.
        WriteError: If something cannot be written.
        Stopped: If that was asked for.
    """
    undrawn, unasked = missing(store, draws, columns)
    if not undrawn and not unasked:
        return
    placement = place()
    names = {job.column.name for job in unasked if job.column}
    wanted = config.model_copy(update={"rewards": {n: r for n, r in config.rewards.items() if n in names}})
    rewards = start_rewards(wanted, placement, new_tag())
    crew = _Crew(store, rewards, unasked, progress, len(undrawn) + len(unasked))
    try:
        with at_once():
            for pool in rewards.values():
                pool.start(1, config.failures.patience.start)
            crew.ask_what_is_drawn(undrawn)
            crew.finish()
            for part in share_out(list({job.draw.key: job.draw for job in undrawn}.values())):
                keys = {draw.key for draw in part.draws}
                crew.draw(config, placement, part, [job for job in undrawn if job.draw.key in keys])
    finally:
        crew.dismiss()


class _Crew:
    """Reward actors, and samplers of one policy after the other."""

    def __init__(
        self,
        store: Store,
        rewards: Mapping[tuple[str, ...], Pool],
        unasked: Sequence[_Job],
        progress: Callable[[int, int], None],
        steps: int,
    ) -> None:
        self._store, self._rewards = store, rewards
        self._progress, self._steps, self._left = progress, steps, steps
        self._actors: list[ActorHandle] = [actor for pool in rewards.values() for actor in pool.actors]
        self._failed: set[str] = set()  # rewards that raised, which is said once
        self._waiting: dict[tuple[str, int], list[_Job]] = {}  # for their pictures
        for job in unasked:
            self._waiting.setdefault((job.draw.key, job.number), []).append(job)

    def ask_what_is_drawn(self, undrawn: Sequence[_Job]) -> None:
        """Have all pictures judged that an earlier evaluation has left."""
        for draw, number in self._waiting.keys() - {(job.draw.key, job.number) for job in undrawn}:
            self._ask(draw, number)

    def _ask(self, draw: str, number: int) -> None:
        for job in self._waiting.pop((draw, number), ()):
            assert job.column is not None
            (pool,) = (pool for names, pool in self._rewards.items() if job.column.name in names)
            pool.submit(Call(job, self._asking(job, job.column)))

    def _asking(self, job: _Job, column: Column) -> Callable[[ActorHandle], Sequence[ray.ObjectRef]]:
        def make(actor: Any) -> Sequence[ray.ObjectRef]:
            pixels, there = self._store.pictures(job.draw, job.number)
            prompts = [job.draw.requests[job.number].prompts[row] for row in np.flatnonzero(there)]
            if not prompts:
                return [ray.put(np.zeros((0, 0) if column.what == "features" else 0, np.float32))]
            return [actor.answer.remote(pixels[there], prompts, column.name, column.what == "features")]

        return make

    def draw(self, config: Config, placement: Placement, part: Work, jobs: Sequence[_Job]) -> None:
        """Start samplers of a policy, have them draw, and everything judged; then let them go."""
        tag = new_tag()
        started = [start_store(tag)]
        self._actors += started
        samplers = start_samplers(config, part.policy, placement, tag)
        self._actors += samplers.actors
        samplers.start(config.samplers.min_count or config.samplers.count, config.failures.patience.start)
        weights = {draw.key: ray.put(part.weights(draw)) for draw in part.draws}
        for job in jobs:
            job.weights = weights[job.draw.key]
            samplers.submit(Call(job, _drawing(job)))
        self.finish(samplers)
        for actor in (*started, *samplers.actors):
            ray.kill(actor)
            self._actors.remove(actor)

    def finish(self, samplers: Pool | None = None) -> None:
        """Go on until the pools have nothing to do."""
        pools = [*([samplers] if samplers else []), *self._rewards.values()]
        arrivals = Arrivals(pools)
        while any(sum(pool.depths) for pool in pools):
            self._progress(self._steps - self._left, self._steps)
            for pool, job, value in arrivals.settled():
                self._settle(job, value, pool)
        self._progress(self._steps - self._left, self._steps)

    def _settle(self, job: _Job, value: Any, pool: Pool) -> None:
        if isinstance(value, RayTaskError):
            if isinstance(value.cause, ObjectLostError):
                pool.submit(Call(job, self._asking(job, job.column) if job.column else _drawing(job)))
                return
            if job.column is None or not isinstance(value.cause, RewardFailed):
                raise value
            value = self._nothing(job.column, value.cause)
        if job.column is None:
            try:
                pixels = ray.get(job.references[1])
            except ObjectLostError:  # with its node
                pool.submit(Call(job, _drawing(job)))
                return
            self._store.keep_pictures(job.draw, job.number, pixels)
            job.references = ()
            self._ask(job.draw.key, job.number)
        else:
            self._store.keep_answer(job.draw, job.number, job.column, self._whole(job, value))
        self._left -= 1
        pool.progressed()

    def _nothing(self, column: Column, error: RewardFailed) -> np.ndarray:
        """One row, which stands for all pictures that a reward has raised at."""
        if column.name not in self._failed:
            log.warning("%s These pictures count as missing; errors of this reward are not shown again.", error)
            self._failed.add(column.name)
        return np.full((1, 0) if column.what == "features" else 1, np.nan, np.float32)

    def _whole(self, job: _Job, answer: np.ndarray) -> np.ndarray:
        """An answer about the pictures that are there, with NaN for the others."""
        _, there = self._store.pictures(job.draw, job.number)
        found = np.full((len(there), *answer.shape[1:]), np.nan, np.float32)
        found[there] = answer
        return found

    def dismiss(self) -> None:
        """Kill the actors."""
        for actor in self._actors:
            ray.kill(actor)
