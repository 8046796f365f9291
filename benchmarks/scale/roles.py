"""What sampler, reward and learner do here: they sleep, and answer with as little as the loop accepts."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from actors.trajectories import Request, Weights
from learner.learner import Update
from learner.objectives.objective import Plan
from rewards.reward import Scores

REWARDS = ("shapes_agreement", "shapes_gold")  # the default ones
_SCORES = np.random.default_rng(0).random((len(REWARDS), 4096), np.float32)
Sleep = Callable[[float], None]


class _Sleeper:
    """Sleeps half to one and a half times as long as it is told, so that actors fall out of step; at first less."""

    def __init__(self, name: str, seconds: float, sleep: Sleep = time.sleep) -> None:
        self.name, self._seconds, self._sleep = name, seconds, sleep
        self._random = random.Random(name)
        self._first = self._random.random()

    def __getattr__(self, name: str) -> Any:
        if name == "__ray_ready__":  # which Ray gives to actors of its own
            return self.ready
        raise AttributeError(name)

    def ready(self) -> None:
        """At once."""

    def sleep(self) -> float:
        """Sleep; returns the seconds."""
        seconds = self._seconds * self._random.uniform(0.5, 1.5) * self._first
        self._first = 1.0
        self._sleep(seconds)
        return seconds


class Sampler(_Sleeper):
    """Sleeps for every request.

    Args:
        name: Its own.
        seconds: Of a request.
        sleep: What it sleeps with.
        side: Of its pictures, pixels.
    """

    def __init__(self, name: str, seconds: float, sleep: Sleep = time.sleep, side: int = 8) -> None:
        super().__init__(name, seconds, sleep)
        self._side = side

    def rollout(self, request: Request, version: int, weights: Any = None) -> tuple[dict[str, Any], np.ndarray, Any]:
        """A receipt, black pictures `(B, side, side, 3)` uint8, and no trajectories."""
        receipt = {"started": time.time(), "seconds": self.sleep(), "version": version, "actor": self.name}
        pixels = np.zeros((len(request.prompts), self._side, self._side, 3), np.uint8)
        return {**receipt, "missing": 0, "lag": None, "kl": 0.0}, pixels, None


class Judge(_Sleeper):
    """Sleeps for every request, and gives every one the same scores."""

    def wrong(self, canaries: Any) -> list[str]:
        """Nothing."""
        return []

    def score(
        self, pixels: np.ndarray, prompts: Sequence[str], features: str | None = None, strict: bool = False
    ) -> Scores:
        """Scores `(2, B)`."""
        self.sleep()
        return Scores(REWARDS, _SCORES[:, : len(prompts)])


class Learner(_Sleeper):
    """Learns in no time, so that there is always something to sample."""

    version = 0

    def plans(self, batches: int) -> tuple[Plan, ...]:
        """Nothing is stored."""
        return (Plan(()),) * batches

    def update(
        self, scores: Mapping[str, np.ndarray], *trajectories: Any, candidates: Any = None
    ) -> tuple[Update, Weights]:
        """An empty update."""
        self.version += 1
        return Update(self.version, {}, time.time(), 0.0), self.weights()

    def weights(self, which: str = "current") -> Weights:
        """One number."""
        return Weights.pack(self.version, np.zeros(1, np.float32), (("w", (1,)),))

    def save(self, folder: str, keep: int) -> None:
        """Nothing."""
