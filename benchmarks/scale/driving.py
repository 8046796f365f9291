"""A run of the loop at one size, and what it cost its driver."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import ray
from rich.console import Console

from benchmarks.scale.standins import StandIn, in_place_of_ray
from benchmarks.sleepers import REWARDS, Judge, Learner, Sampler
from cluster.config import Config
from cluster.crew.crew import Crew, dismiss
from cluster.crew.learner_group import LearnerGroup
from cluster.crew.pool import Pool
from cluster.crew.weights import WeightStore
from cluster.loop import train
from cluster.pages.live import LivePage
from cluster.records.display import Display
from cluster.records.rundir import RunDirectory

ITERATIONS, WARM_UP = 5, 2  # of which those are not counted: samplers begin together, files are opened
_PATIENCE = 600.0  # seconds
_SPREAD = 0.5  # requests and scores take half to one and a half times as long
_SIDE = 128  # pixels of a picture in Ray's store, as large as makes it an object of its own there


@dataclass(frozen=True)
class Size:
    """How many there are of each role, and how long they take."""

    samplers: int
    judges: int
    requests: int  # of an iteration
    rate: float  # requests a second of all samplers together

    @property
    def seconds(self) -> float:
        """Of a request."""
        return self.samplers / self.rate

    @property
    def scoring(self) -> float:
        """Seconds of a request's scores: the judges are busy half of the time."""
        return self.judges / self.rate / 2


@dataclass(frozen=True)
class Cost:
    """What a run cost its driver."""

    cpu: float  # seconds of all its threads, a request
    latencies: np.ndarray  # seconds from the end of a sampler's request until the driver gave it the next
    idle: float  # share of the samplers' time without a request
    memory: float  # resident, bytes


class _Watched(LearnerGroup):
    """Notes at each update how far the process is."""

    def __init__(self, actors: Sequence[Any]) -> None:
        super().__init__(actors, _PATIENCE)
        self.marks: list[tuple[float, float]] = []

    def update(
        self,
        scores: Mapping[str, np.ndarray],
        trajectories: Sequence[ray.ObjectRef],
        candidates: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[list[ray.ObjectRef], ray.ObjectRef]:
        self.marks.append((time.monotonic(), time.process_time()))
        return super().update(scores, trajectories, candidates)


def with_stand_ins(config: Config, size: Size) -> Cost:
    """The control plane alone: actors are in this process."""
    with in_place_of_ray() as clock:

        def start(role: Callable[..., Any], name: str, seconds: float) -> Any:
            return StandIn(clock, lambda sleep: role(name, seconds, sleep, _SPREAD))

        samplers = [start(Sampler, f"sampler-{number}", size.seconds) for number in range(size.samplers)]
        judges = [start(Judge, f"judge-{number}", size.scoring) for number in range(size.judges)]
        store: Any = StandIn(clock, lambda sleep: WeightStore())
        began, cpu, ended = _drive(config, store, start(Learner, "learner", 0.0), samplers, judges, size)
    waits = np.array([wait for sampler in samplers for wait in sampler.waits if began <= wait[0] <= ended])
    idle = waits[:, 2].sum() / (ended - began) / size.samplers
    return Cost(cpu, waits[:, 1], float(idle), psutil.Process().memory_info().rss)


def through_ray(config: Config, size: Size, processes: int) -> float:
    """Seconds of the driver's CPU a request with actors of Ray, which has begun.

    Args:
        config: Of the run.
        size: How many handles there are.
        processes: That they are of, as many for each role; each has as many threads as it has calls at a time.
    """

    def start(role: type, count: int, *arguments: Any) -> list[Any]:
        threads, names = -(-count // processes), [f"{role.__name__}-{n}" for n in range(min(count, processes))]
        made = [_actor(role, threads, name, *arguments) for name in names]
        return [made[number % len(made)] for number in range(count)]

    samplers = start(Sampler, size.samplers, size.seconds, time.sleep, _SPREAD, _SIDE)
    judges, (learner,) = start(Judge, size.judges, size.scoring, time.sleep, _SPREAD), start(Learner, 1, 0.0)
    return _drive(config, _actor(WeightStore, 1), learner, samplers, judges, size)[1]


def _actor(role: type, threads: int, *arguments: Any) -> Any:
    actor: Any = ray.remote(role)  # Ray's own types do not follow options()
    return actor.options(num_cpus=0, max_concurrency=threads).remote(*arguments)


def _drive(
    config: Config, store: Any, learner: Any, samplers: Sequence[Any], judges: Sequence[Any], size: Size
) -> tuple[float, float, float]:
    """Train; returns begin and end of what counts (monotonic), and between them CPU seconds a request."""
    watched = _Watched([learner])
    crew = Crew(store, watched, Pool("sampler", samplers, 0), {REWARDS: Pool("reward", judges, 0)})
    for pool in crew.pools:
        pool.start(len(pool.actors), _PATIENCE)
    run = RunDirectory.create(config)
    with mock.patch.object(LivePage, "refresh"), Display(Console(quiet=True), config.iterations) as display:
        train(config, crew, run, display)
    dismiss(crew)
    (began, before), *between, (ended, after) = watched.marks[WARM_UP - 1 :]
    return began, (after - before) / (len(between) + 1) / size.requests, ended


def words(folder: Path, prompts: Path, size: Size) -> list[str]:
    """The settings of such a run."""
    return [
        f"folder={folder}",
        f"iterations={ITERATIONS}",
        f"prompts.train={prompts}",
        "prompts.held_out=null",
        "prompts.samples=8",
        f"prompts.per_iteration={size.requests}",
        "samplers.request_size=8",
        "samplers.max_staleness=1",
        f"samplers.count={size.samplers}",
        "learner.ema_decay=0",
        "checkpoints.every=1000",
        "evaluation={every: 0, prompts: 1, samples: 2, held_out_samples: 2, features: null}",
        "guard=null",
    ]
