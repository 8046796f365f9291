"""The sampler actor: pulls the newest weights, rolls out a request, stamps what it used; or encodes given pictures."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.config import PolicyConfig
from actors.encoding import Read, encode
from actors.model_check import reads_whole
from actors.model_files import fetch
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request, Trajectories, Weights


class Sampler:
    """Rolls out trajectories under the weights in the store; made a Ray actor by `cluster.crew`.

    Args:
        config: The policy, as the learner has it.
        store: Name of the weight store actor, which answers `newer`.
        name: What it is called in logs and metrics.
        patience: Seconds that the store may take to answer, and the weights to come.
    """

    def __init__(self, config: PolicyConfig, store: str, name: str = "sampler", patience: float = 60.0) -> None:
        self._name, self._patience = name, patience
        self._policy = Policy.load(config)
        self._store = ray.get_actor(store)
        # Version and checksum of the weights in the policy. A fresh adapter is the pretrained model: version 0.
        self._stamp: tuple[int, int] | None = (0, 0)
        self._publication = 0  # the store's number of the weights in the policy; 0 if it has published none such
        self._own = np.empty_like(self._policy.weights()[0])

    def __repr__(self) -> str:
        return self._name  # what Ray's dashboard and the job's log call this actor

    def ready(self) -> None:
        """Answers once the model is loaded."""

    def rollout(self, request: Request, version: int, weights: Weights | None = None) -> tuple[Any, ...]:
        """Roll out a request.

        Args:
            request: What to sample.
            version: The oldest version of the weights that may act.
            weights: Act with these instead of the store's (an average that is only evaluated).

        Returns:
            A receipt that is cheap to fetch (`version`, `started`, `seconds`, `actor`, `missing`: the pictures that are
            not finite and therefore masked, `lag`: the seconds between publication and use of weights that were new to
            this actor, and `kl`: the mean of the trajectories', or `None`), the images `(B, H, W, 3)` uint8, and the
            trajectories. Where there are candidates, the images predicted of them and their times, as the trajectories
            have them, are a fourth: a pair. So many Ray objects, so that each reader fetches only its own.

        Raises:
            RayActorError, GetTimeoutError: If the store is lost, or does not answer.
            ObjectLostError: If the weights are lost.
        """
        started = time.time()
        lag = None
        if weights is None:
            lag = self._pull(version)
        else:
            self._publication = 0
            self._apply(weights)
        assert self._stamp is not None
        # The actor's own log; a job's log leaves these lines out (deploy/runtime_env.yaml).
        print(f"weights {self._stamp[0]}: {len(request.prompts)} samples of {request.prompts[0]!r} and on", flush=True)
        pixels, trajectories = rollout(self._policy, request, self._stamp[0])
        receipt: dict[str, Any] = {"version": self._stamp[0], "started": started, "seconds": time.time() - started}
        missing = int(np.ma.getmaskarray(pixels)[:, 0, 0, 0].sum())
        kls = np.empty(0) if trajectories.kl is None else trajectories.kl[np.isfinite(trajectories.kl)]
        kl = float(np.mean(kls)) if len(kls) else None
        receipt |= {"actor": self._name, "missing": missing, "lag": lag, "kl": kl}
        if request.candidates == 1:
            return receipt, pixels, trajectories
        shown = trajectories.predicted, trajectories.times
        return receipt, pixels, replace(trajectories, predicted=None), shown

    def encode(self, read: Read, version: int, wanted: bool) -> tuple[dict[str, Any], np.ndarray | None, Trajectories]:
        """Read and encode pictures that are given; no weights are asked for.

        Args:
            read: Reads them.
            version: That they will train, stamped on the trajectories.
            wanted: Whether somebody wants the pictures too.

        Returns:
            A receipt as `rollout`'s, with the `request` that was read and whatever else `read` says; the images
            `(B, H, W, 3)` uint8 if they are wanted; and trajectories of no transitions, with `clean`.
        """
        started = time.time()
        request, said = read(self._reads_whole)
        pixels, trajectories = encode(self._policy, request, version)
        receipt = {"version": version, "started": started, "seconds": time.time() - started, "actor": self._name}
        return {**receipt, "request": replace(request, start=None), **said}, pixels if wanted else None, trajectories

    def _reads_whole(self, prompts: Sequence[str]) -> list[bool]:
        return reads_whole(self._policy.config, prompts, self._folder)

    @cached_property
    def _folder(self) -> Path:
        config = self._policy.config
        return fetch(config.model, config.variant)

    def _pull(self, version: int) -> float | None:
        newest: Any = ray.get(self._store.newer.remote(self._publication), timeout=self._patience)
        lag = None
        if newest is not None:
            number, reference, published = newest
            self._publication = 0
            self._apply(ray.get(reference, timeout=self._patience))
            self._publication, lag = number, time.time() - published
        if self._stamp is None or self._stamp[0] < version:
            raise RuntimeError(
                f"This sampler was asked to act with weights of version {version}, but the store has none newer than "
                f"{self._stamp and self._stamp[0]}."
            )
        return lag

    def _apply(self, weights: Weights) -> None:
        stamp = (weights.version, weights.checksum)
        if stamp != self._stamp:
            weights.copy_to(self._own)  # the policy is not touched before they are verified
            self._stamp = None  # while loading, it is neither the old nor the new one
            self._policy.load_weights(self._own, weights.index)
            self._stamp = stamp
