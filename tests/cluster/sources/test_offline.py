"""Offline batches: drawn once, when they are asked for, from the model that the run began with, and gone round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

from actors.trajectories import Request
from cluster.config import Config
from cluster.sources.offline import Offline
from cluster.sources.rollouts import Rollout
from learner.objectives.objective import Plan

INITIAL: Any = object()  # reference of weights


class FakeRollouts:
    """Finishes the newest request first, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int, Any]] = []
        self.pending: dict[int, Request] = {}
        self.done: dict[int, Rollout] = {}

    def submit(self, number: int, request: Request, oldest: int, weights: Any) -> None:
        self.asked.append((number, request.iteration, oldest, weights))
        self.pending[number] = request

    def wait(self) -> None:
        number = max(self.pending)
        request = self.pending.pop(number)
        self.done[number] = Rollout(request, 0, 0.0, 1.0, None, None, {"a": np.zeros(2)})  # type: ignore[arg-type]

    def take(self, number: int) -> Rollout | None:
        return self.done.pop(number, None)

    def finished(self, keys: Iterable[int]) -> dict[int, Rollout]:
        return {key: found for key in keys if (found := self.take(key)) is not None}


@pytest.mark.parametrize("version", [0, 3])
def test_batches_are_drawn_once_under_the_first_weights_and_gone_round(
    make_config: Callable[..., Config], version: int
) -> None:
    config = make_config("iterations=6", "samplers.request_size=2", "prompts.per_iteration=1", "prompts.samples=4")
    rollouts, seen = FakeRollouts(), []
    source = Offline(config, rollouts, [Plan((0,), offline_batches=2)] * config.iterations, INITIAL)  # type: ignore[arg-type]
    assert rollouts.asked == []
    for v in range(version, config.iterations):
        batch = source.batch(v, lambda *counts: seen.append(counts))
        assert [rollout.request.iteration for rollout in batch] == [v % 2] * 2
        assert [rollout.request.sample_index for rollout in batch] == [(0, 1), (2, 3)]
        fresh = v < version + 2
        assert [(rollout.seconds > 0, rollout.actor is not None) for rollout in batch] == [(fresh, fresh)] * 2
    assert sorted(rollouts.asked) == [(n, n // 2, 0, INITIAL) for n in range(4)]
    assert seen == [(0, 4), (2, 4)] * 2
