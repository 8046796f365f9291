"""Rollouts under way: request -> sampler -> rewards, as references; the driver itself only ever holds scores."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError, RayTaskError

from actors.trajectories import Request
from cluster.pool import Call, Pool

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollout:
    """A scored request."""

    request: Request
    version: int  # of the weights that acted
    started: float  # seconds since the epoch
    seconds: float
    pixels: ray.ObjectRef  # (B, H, W, 3) uint8
    trajectories: ray.ObjectRef
    scores: dict[str, np.ndarray]  # (B,) float32 of each reward, NaN where a sample could not be judged
    features: np.ndarray | None = None  # (B, D) float32, where they were asked for
    actor: str = "sampler"  # that rolled it out
    lag: float | None = None  # seconds from the publication of its weights until it had them, if it just got them


class Rollouts:
    """Sends requests to samplers, chains each result to the rewards, and collects what is complete.

    Args:
        samplers: Pool of sampler actors.
        rewards: Pool of reward actors.
        names: Of the rewards.
    """

    def __init__(self, samplers: Pool, rewards: Pool, names: Sequence[str]) -> None:
        self._samplers, self._rewards, self._names = samplers, rewards, names
        self._done: dict[Hashable, Rollout] = {}

    def submit(
        self,
        key: Hashable,
        request: Request,
        version: int,
        weights: ray.ObjectRef | None = None,
        features: str | None = None,
    ) -> None:
        """Start a request.

        Args:
            key: Names the rollout for `take`.
            request: What to sample.
            version: The oldest weights that may act.
            weights: Act with exactly these instead.
            features: Also compute the image features of this reward.
        """
        self._sample(_Job(key, request, version, weights, features))

    def take(self, key: Hashable) -> Rollout | None:
        """The finished rollout of a key, once."""
        return self._done.pop(key, None)

    def wait(self, also: Sequence[ray.ObjectRef] = ()) -> None:
        """Wait until something has happened here or to one of the other references, and deal with all that has."""
        pools = {reference: pool for pool in (self._samplers, self._rewards) for reference in pool.references}
        everything = [*pools, *also]
        ray.wait(everything, num_returns=1, fetch_local=False)
        ready, _ = ray.wait(everything, num_returns=len(everything), timeout=0, fetch_local=False)
        for reference in ready:
            if reference in pools and (settled := pools[reference].settle(reference)):
                job, value = settled
                if pools[reference] is self._samplers:
                    self._score(job, value)
                else:
                    self._finish(job, value)

    def _sample(self, job: _Job) -> None:
        def make(sampler: Any) -> Sequence[ray.ObjectRef]:
            job.sampled = sampler.rollout.options(num_returns=3).remote(job.request, job.version, job.weights)
            return job.sampled

        self._samplers.submit(Call(job, make))

    def _score(self, job: _Job, receipt: Any) -> None:
        if isinstance(receipt, RayTaskError):
            raise receipt
        job.receipt = receipt
        pixels, prompts = job.sampled[1], job.request.prompts
        self._rewards.submit(Call(job, lambda actor: [actor.score.remote(pixels, prompts, job.features)]))

    def _finish(self, job: _Job, scored: Any) -> None:
        samples = len(job.request.prompts)
        features = None
        if isinstance(scored, RayTaskError) and isinstance(scored.cause, ObjectLostError):
            log.warning("%d images were lost with their node; they are sampled again.", samples)
            return self._sample(job)
        if isinstance(scored, RayTaskError):
            log.warning("A reward failed on %d samples, which are dropped: %s", samples, scored.cause)
            scores = {name: np.full(samples, np.nan, np.float32) for name in self._names}
        else:
            scores = dict(zip(scored.names, np.array(scored.values), strict=True))
            features = scored.features
        self._done[job.key] = Rollout(
            job.request,
            **job.receipt,
            pixels=job.sampled[1],
            trajectories=job.sampled[2],
            scores=scores,
            features=features,
        )


@dataclass(eq=False)
class _Job:
    """A request on its way."""

    key: Hashable
    request: Request
    version: int
    weights: ray.ObjectRef | None
    features: str | None
    sampled: Sequence[ray.ObjectRef] = ()  # receipt, pixels, trajectories; kept alive until scored
    receipt: Mapping[str, Any] = field(default_factory=dict)
