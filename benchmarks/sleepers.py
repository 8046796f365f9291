"""Sampler, reward and learner that only wait: they sleep, and answer with as little as the loop accepts."""

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

REWARDS: tuple[str, ...] = ("shapes_agreement", "shapes_gold")  # the default ones
_SCORES = np.random.default_rng(0).random((len(REWARDS), 4096), np.float32)
Sleep = Callable[[float], None]


class _Sleeper:
    """Sleeps whenever it is asked for something.

    Args:
        name: Its own.
        seconds: Of what it is asked for.
        sleep: What it sleeps with.
        spread: Share of the seconds by which it takes more or less, at first even less, so that actors fall out of
            step; 0 is always the same.
    """

    def __init__(self, name: str, seconds: float, sleep: Sleep = time.sleep, spread: float = 0.0) -> None:
        self.name, self._seconds, self._sleep, self._spread = name, seconds, sleep, spread
        self._random = random.Random(name)
        self._first = self._random.random() if spread else 1.0

    def __getattr__(self, name: str) -> Any:
        if name == "__ray_ready__":  # which Ray gives to actors of its own
            return self.ready
        raise AttributeError(name)

    def ready(self) -> None:
        """At once."""

    def sleep(self) -> float:
        """Sleep; returns the seconds."""
        seconds = self._seconds * self._random.uniform(1 - self._spread, 1 + self._spread) * self._first
        self._first = 1.0
        self._sleep(seconds)
        return seconds


class Sampler(_Sleeper):
    """Sleeps for every request.

    Args:
        name: Its own.
        seconds: Of a request.
        sleep: What it sleeps with.
        spread: Share of the seconds by which it takes more or less.
        side: Of its pictures, pixels.
    """

    def __init__(
        self, name: str, seconds: float, sleep: Sleep = time.sleep, spread: float = 0.0, side: int = 8
    ) -> None:
        super().__init__(name, seconds, sleep, spread)
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
    """Sleeps for every batch."""

    version = 0

    def plans(self, batches: int) -> tuple[Plan, ...]:
        """Nothing is stored."""
        return (Plan(()),) * batches

    def update(
        self, scores: Mapping[str, np.ndarray], *trajectories: Any, candidates: Any = None
    ) -> tuple[Update, Weights]:
        """An empty update."""
        started = time.time()
        seconds = self.sleep()
        self.version += 1
        return Update(self.version, {}, started, seconds), self.weights()

    def weights(self, which: str = "current") -> Weights:
        """One number."""
        return Weights.pack(self.version, np.zeros(1, np.float32), (("w", (1,)),))

    def save(self, folder: str, keep: int) -> None:
        """Nothing."""
