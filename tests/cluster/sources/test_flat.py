"""What a request costs the driver does not grow with samplers, with what is under way or with prompts; as counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import ray

from cluster.config import Config
from cluster.crew.pool import Pool
from cluster.prompts import _order
from cluster.records.metrics import iteration_metrics
from cluster.sources.rollouts import Rollout, Rollouts
from cluster.sources.samplers import Sampled
from learner.learner import Update
from learner.objectives.objective import Plan
from rewards.reward import Scores
from tests.support.one_at_a_time import World, get, lines_of

REQUESTS = 256  # of an iteration
Make = Callable[..., Config]


class OneByOne(Rollouts):
    """One call ends just before the driver looks, each time: nothing is saved by dealing with many at once."""

    world: World

    def wait(self, also: Sequence[ray.ObjectRef] = ()) -> None:
        self.world.end_one()
        super().wait(also)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(references: Sequence[Any], **_: Any) -> NoReturn:
        raise AssertionError(f"{len(references)} references were looked at")

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", refuse)


@pytest.fixture
def source(make_config: Make, tmp_path: Path) -> Callable[..., Sampled]:
    """Makes a source of batches that are drawn by so many samplers, and judged by a quarter as many actors."""

    def make(samplers: int, prompts: int = 1000, staleness: int = 1) -> Sampled:
        (tmp_path / "many.txt").write_text("".join(f"thing {number}\n" for number in range(prompts)))
        settings = [f"prompts.train={tmp_path}/many.txt", f"samplers.max_staleness={staleness}", "iterations=4"]
        config = make_config(
            *settings, f"prompts.per_iteration={REQUESTS}", "prompts.samples=2", "samplers.request_size=2"
        )
        world = World(seed=samplers)
        receipt = {"started": 0.0, "seconds": 1.0, "version": 9}

        def draw(number: int) -> Any:
            return world.actor(rollout=lambda *_: [{**receipt, "actor": f"sampler-{number}"}, None, None])

        def judge() -> Any:
            return world.actor(score=lambda *_: Scores(("a",), np.zeros((1, 2), np.float32)))

        pools = (
            Pool("sampler", [draw(n) for n in range(samplers)], 0),
            Pool("a", [judge() for _ in range(samplers // 4)], 0),
        )
        rollouts = OneByOne(pools[0], {("a",): pools[1]})
        rollouts.world = world
        # Whether an actor hangs is looked at once a second, however fast this machine is.
        rollouts._arrivals._checked = float("inf")
        Rollouts.wait(rollouts)  # until they are up
        return Sampled(config, rollouts, 0, [Plan(())] * config.iterations)

    return make


def cost(source: Sampled) -> float:
    """Lines a request while the third batch is asked for, when all is under way that may be."""
    source.batch(0)
    source.batch(1)
    world: World = source._rollouts.world  # type: ignore[attr-defined]
    before = world.ended
    lines = lines_of(lambda: source.batch(2))
    return 2 * lines / (world.ended - before)  # each is two calls; those of the fourth batch may be ahead of its own


@pytest.mark.parametrize("staleness", [0, 1])
def test_a_request_costs_the_same_with_sixteen_times_the_samplers(
    source: Callable[..., Sampled], staleness: int
) -> None:
    few, many = (cost(source(samplers, staleness=staleness)) for samplers in (8, 128))
    assert 20 < few < 400
    assert many < 1.1 * few


def test_a_request_costs_the_same_with_a_hundred_times_the_prompts(
    source: Callable[..., Sampled], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = cost(source(16, prompts=1000))
    made = source(16, prompts=100_000)

    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("a prompt file is read for a request")

    monkeypatch.setattr("cluster.prompts._parse", refuse)
    _order.cache_clear()
    assert cost(made) == pytest.approx(few, rel=0.1)
    assert _order.cache_info().misses == 1  # the list is put in order once a pass, and not for each request


def test_every_request_comes_once_and_in_order(source: Callable[..., Sampled]) -> None:
    made = source(64)
    for version in range(4):
        batch = made.batch(version)
        assert [r.request.prompt_index[0] for r in batch] == list(range(REQUESTS))
        assert {r.request.iteration for r in batch} == {version}


def test_the_metrics_of_an_iteration_are_taken_in_one_pass_over_it(source: Callable[..., Sampled]) -> None:
    def lines(samplers: int) -> int:
        batch = source(samplers).batch(0)
        assert len({rollout.actor for rollout in batch}) == samplers
        update = Update(1, {}, 0.0, 1.0)
        return lines_of(lambda: iteration_metrics(update, batch, _scores(batch), 0.0, 1.0))

    few, many = lines(8), lines(128)
    assert many < few + 120 * 12  # a handful of lines for each sampler that there is more


def _scores(batch: Sequence[Rollout]) -> dict[str, np.ndarray]:
    return {"a": np.concatenate([rollout.scores["a"] for rollout in batch])}
