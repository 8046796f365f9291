"""What an answer costs the driver does not grow with actors or with what is under way; as counts, without Ray."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import pytest
import ray

from cluster.crew.arrivals import Arrivals
from cluster.crew.pool import Pool
from cluster.matrix.store import Column
from cluster.matrix.working import _Crew, _Job
from tests.support.one_at_a_time import World, get, lines_of

REQUESTS = 300
COLUMN = Column("a", "a-00000000", "scores")


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(references: Sequence[Any], **_: Any) -> NoReturn:
        raise AssertionError(f"{len(references)} references were looked at")

    monkeypatch.setattr(ray, "get", get)
    monkeypatch.setattr(ray, "wait", refuse)
    monkeypatch.setattr(Pool, "check", lambda pool: None)  # which is once a second, however fast this machine is


def judge_all(actors: int) -> tuple[int, dict[int, float]]:
    """Lines, and the answers by request, where one call ends each time that the driver looks."""
    world, answers = World(seed=actors), dict[int, float]()
    pool = Pool("a", [world.actor(answer=lambda pixels, *_: pixels[:, 0, 0, 0]) for _ in range(actors)], 0)
    list(Arrivals([pool]).settled())  # until they are up
    draw: Any = SimpleNamespace(key="draw", requests=[SimpleNamespace(prompts=("a disc",))] * REQUESTS)
    store: Any = SimpleNamespace(
        pictures=lambda draw, number: (np.full((1, 1, 1, 3), number, np.float32), np.ones(1, bool)),
        keep_answer=lambda draw, number, column, answer: answers.update({number: answer.item()}),
    )

    def look(done: int, steps: int) -> None:
        assert steps == REQUESTS
        if pool.depths[1]:
            world.end_one()

    jobs = [_Job(draw, number, COLUMN) for number in range(REQUESTS)]
    crew = _Crew(store, {("a",): pool}, jobs, look, REQUESTS)
    crew.ask_what_is_drawn([])
    return lines_of(crew.finish), answers


def test_an_answer_costs_the_same_with_sixteen_times_the_actors() -> None:
    (few, first), (many, second) = judge_all(8), judge_all(128)
    assert first == second == {number: float(number) for number in range(REQUESTS)}
    assert few > 10 * REQUESTS
    assert many < 1.1 * few
