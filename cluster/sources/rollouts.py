"""Rollouts under way: request -> sampler -> rewards, as references; the driver itself only ever holds scores.

Pictures of a dataset go the same way, but that a sampler reads and encodes them, and that people may have judged them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, TypeVar, cast

import numpy as np
import ray
from ray.exceptions import ObjectLostError, RayTaskError

from actors.encoding import Read
from actors.trajectories import Request
from cluster.crew.arrivals import Arrivals
from cluster.crew.pool import Call, Pool
from cluster.errors import Hung
from cluster.sources.answers import Answers
from cluster.sources.pairs import Counts
from cluster.sources.spans import Spans
from rewards.errors import RewardUnavailable, said

log = logging.getLogger(__name__)
Key = TypeVar("Key", bound=Hashable)

_UNREAD = Request(0, 0, (), (), ())  # until a reader says what there is


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
    actor: str | None = "sampler"  # that rolled it out; `None` where that was for an earlier batch
    missing: int = 0  # of its pictures were not finite; nobody judged them, and their scores are NaN
    lag: float | None = None  # seconds from the publication of its weights until it had them, if it just got them
    kl: float | None = None  # mean of the KL of its chains to the pretrained model's, where it was asked for, nats
    failed: Mapping[str, str] = field(default_factory=dict)  # a sentence for each reward that raised
    counts: Counts | None = None  # of the rows that it was read from, if nobody sampled it
    answers: Answers | None = None  # of people, to the pairs that begin in it, if they were asked
    # (B, K, M) float32 of each reward that judges candidates, where there are some
    candidates: Mapping[str, np.ndarray] = field(default_factory=dict)


class Rollouts:
    """Sends requests to samplers, chains each result to every pool of rewards, and collects what is complete.

    Args:
        samplers: Pool of sampler actors.
        rewards: Pools of reward actors, by the names of the rewards that they hold.
        judges: The rewards that judge candidates, where requests have some.

    Attributes:
        spans: When samplers worked.
    """

    def __init__(self, samplers: Pool, rewards: Mapping[tuple[str, ...], Pool], judges: Sequence[str] = ()) -> None:
        self._samplers, self._rewards, self._judges = samplers, dict(rewards), tuple(judges)
        self._done: dict[Hashable, Rollout] = {}
        self._said: set[str] = set()  # of what failed
        self.spans = Spans()
        self._warned = False

    def submit(
        self,
        key: Hashable,
        request: Request,
        version: int,
        weights: ray.ObjectRef | None = None,
        features: str | None = None,
        strict: bool = False,
    ) -> None:
        """Start a request.

        Args:
            key: Names the rollout for `take`.
            request: What to sample.
            version: The oldest weights that may act.
            weights: Act with exactly these instead.
            features: Also compute the image features of this reward.
            strict: Take no scores but of exactly the right shape.
        """
        self._sample(_Job(key, request, version, weights, features, strict))

    def read(self, key: Hashable, read: Read, version: int, judged: bool) -> None:
        """Start reading pictures.

        Args:
            key: Names the rollout for `take`.
            read: Reads them, where they are encoded; it says their `counts`, and their `scores` where they have some.
            version: That they will train.
            judged: Whether the rewards judge them.
        """
        self._sample(_Job(key, _UNREAD, version, reader=read, judged=judged))

    def take(self, key: Hashable) -> Rollout | None:
        """The finished rollout of a key, once."""
        return self._done.pop(key, None)

    def finished(self, keys: Collection[Key]) -> dict[Key, Rollout]:
        """The finished rollouts of keys, once each; what it costs does not depend on how many keys are unfinished."""
        found = [cast(Key, key) for key in self._done if key in keys]
        return {key: self._done.pop(key) for key in found}

    def wait(self, also: Sequence[ray.ObjectRef] = ()) -> None:
        """Wait until something has happened here or to one of the other references, and deal with all that has.

        Returns after some seconds in any case; actors that hang are killed then.
        """
        for reference in also:
            self._arrivals.expect(reference)
        for pool, job, value in self._arrivals.settled():
            if pool is self._samplers:
                self._score(job, value)
            else:
                self._collect(job[0], job[1], value)

    def wait_for(self, references: Sequence[ray.ObjectRef], patience: float) -> list[Any]:
        """The values of references of the learner; rollouts go on meanwhile, and the first failure is raised when it
        happens.

        Raises:
            Hung: If they are not there after `patience` seconds.
        """
        deadline = time.monotonic() + patience
        waiting = list(references)
        while waiting:
            ready, waiting = ray.wait(waiting, timeout=0)
            ray.get(ready)
            if not ready:
                if time.monotonic() > deadline:
                    raise Hung(f"The learner has not finished an update in {patience:g} s (failures.patience.learn).")
                self.wait(also=waiting)
        return ray.get(list(references))

    @cached_property
    def _arrivals(self) -> Arrivals:
        return Arrivals((self._samplers, *self._rewards.values()))

    def _sample(self, job: _Job) -> None:
        def make(sampler: Any) -> Sequence[ray.ObjectRef]:
            if job.reader is None:
                objects = 3 + (job.request.candidates > 1)
                job.sampled = sampler.rollout.options(num_returns=objects).remote(job.request, job.version, job.weights)
            else:
                job.sampled = sampler.encode.options(num_returns=3).remote(job.reader, job.version, job.judged)
            return job.sampled

        self._samplers.submit(Call(job, make))

    def _score(self, job: _Job, receipt: Any) -> None:
        if isinstance(receipt, RayTaskError):
            raise receipt
        job.request = receipt.pop("request", job.request)
        job.receipt = receipt
        self.spans.add("sampler", receipt["started"], receipt["seconds"])
        if receipt.get("missing") and not self._warned:
            self._warned = True
            log.warning(
                "%d of %d pictures of a request are not finite and are dropped, as all such will be: the model "
                "overflows (try policy.dtype=float32), or its weights are damaged.",
                receipt["missing"],
                len(job.request.prompts),
            )
        if not (job.judged and job.request.prompts and self._rewards):
            return self._finish(job)
        for names, pool in self._rewards.items():
            features = job.features if job.features in names else None
            pool.submit(Call((job, names), partial(_ask, job, features, self._judges)))

    def _collect(self, job: _Job, names: tuple[str, ...], scored: Any) -> None:
        if job.lost:
            return
        if isinstance(scored, RayTaskError) and isinstance(scored.cause, ObjectLostError):
            log.warning("%d images were lost with their node; they are sampled again.", len(job.request.prompts))
            job.lost = True
            return self._sample(replace(job, sampled=(), receipt={}, scored={}, lost=False))
        job.scored[names] = scored
        if len(job.scored) == len(self._rewards):
            self._finish(job)

    def _finish(self, job: _Job) -> None:
        samples = len(job.request.prompts)
        features = None
        scores: dict[str, np.ndarray] = {}
        candidates: dict[str, np.ndarray] = {}
        if job.request.candidates > 1:
            shape = samples, len(job.request.stored_steps), job.request.candidates
            candidates = {name: np.full(shape, np.nan, np.float32) for name in self._judges}
        failed: dict[str, str] = {}
        for names in (names for names in self._rewards if names in job.scored):
            scored = job.scored[names]
            if isinstance(scored, RayTaskError) and isinstance(scored.cause, RewardUnavailable):
                raise scored
            if isinstance(scored, RayTaskError):
                scores |= {name: np.full(samples, np.nan, np.float32) for name in names}
                failed |= dict.fromkeys(
                    names, f"The rewards {', '.join(names)} could not be asked: {said(scored.cause)}."
                )
            else:
                scores |= zip(scored.names, np.array(scored.values), strict=True)
                candidates |= scored.candidates
                failed |= scored.failed
                features = scored.features if job.features in names else features
        for sentence in sorted(set(failed.values()) - self._said):
            log.warning("%s Its samples are dropped; errors like this one are counted, and not shown again.", sentence)
            self._said.add(sentence)
        if not samples:
            scores = {name: np.empty(0, np.float32) for names in self._rewards for name in names}
        found: dict[str, Any] = {"scores": scores, "features": features, "failed": failed, "candidates": candidates}
        found |= job.receipt
        self._done[job.key] = Rollout(job.request, pixels=job.sampled[1], trajectories=job.sampled[2], **found)


def _ask(job: _Job, features: str | None, judges: Sequence[str], rewards: Any) -> Sequence[ray.ObjectRef]:
    candidates = (job.sampled[3], judges) if len(job.sampled) > 3 else ()
    return [rewards.score.remote(job.sampled[1], job.request.prompts, features, job.strict, *candidates)]


@dataclass(eq=False)
class _Job:
    """A request on its way."""

    key: Hashable
    request: Request
    version: int
    weights: ray.ObjectRef | None = None
    features: str | None = None
    strict: bool = False
    reader: Read | None = None  # of pictures, in the place of a request
    judged: bool = True  # by the rewards
    # Receipt, pixels, trajectories, and where there are some the candidates' pictures; kept alive until scored.
    sampled: Sequence[ray.ObjectRef] = ()
    receipt: Mapping[str, Any] = field(default_factory=dict)
    scored: dict[tuple[str, ...], Any] = field(default_factory=dict)  # of the pools that have answered
    lost: bool = False  # its images are gone and another job samples them again; late answers no longer count
