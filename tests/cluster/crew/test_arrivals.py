"""What arrives is said once, whoever's it is, and actors take turns; without Ray."""

from __future__ import annotations

import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from cluster.crew.arrivals import Arrivals
from cluster.crew.pool import MAX_IN_FLIGHT, Call, Pool
from tests.support.one_at_a_time import Reference, World, get


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", get)


def pool_of(world: World, count: int) -> Pool:
    return Pool("worker", [world.actor(work=lambda job: job) for _ in range(count)], max_deaths=0)


def call(job: Any) -> Call:
    return Call(job, lambda actor: [actor.work.remote(job)])


def settle(arrivals: Arrivals) -> list[tuple[Any, Any]]:
    found = [pool.settle(reference) for reference, pool in arrivals.wait(0) if pool is not None]
    return [settled for settled in found if settled is not None]


def test_everything_of_a_pool_arrives_once_whenever_it_was_asked_for() -> None:
    world = World()
    pool = pool_of(world, 2)
    arrivals = Arrivals([pool])  # while the actors are not up
    assert settle(arrivals) == []
    assert pool.up == 2
    for job in range(3):
        pool.submit(call(job))
    again = Arrivals([pool])  # knows what is under way
    pool.submit(call(3))
    assert settle(again) == []
    world.end_one()
    (first,) = settle(again)
    for _ in range(3):
        world.end_one()
    assert sorted([first, *settle(again)]) == [(job, job) for job in range(4)]
    assert settle(again) == []


def test_what_is_nobodys_is_said_as_such_and_once_however_often_it_is_expected() -> None:
    arrivals, other = Arrivals([]), Reference()
    for _ in range(3):
        arrivals.expect(other)  # type: ignore[arg-type]
    assert arrivals.wait(0) == []
    threading.Timer(0.05, other.future().set_result, [None]).start()
    assert arrivals.wait(60) == [(other, None)]
    assert arrivals.wait(0) == []
    arrivals.expect(other)  # type: ignore[arg-type]
    assert arrivals.wait(0) == [(other, None)]


def test_a_failed_call_arrives_too() -> None:
    arrivals, other = Arrivals([]), Reference()
    arrivals.expect(other)  # type: ignore[arg-type]
    other.future().set_exception(ValueError("no"))
    assert arrivals.wait(0) == [(other, None)]


def test_calls_that_ended_are_said_with_their_pool_and_hanging_actors_are_looked_for_once_a_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checked, now = list[Pool](), 0.0
    monkeypatch.setattr("cluster.crew.arrivals.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(Pool, "check", lambda pool: checked.append(pool))
    world = World()
    one, other = pool_of(world, 1), pool_of(world, 1)
    arrivals = Arrivals([one, other])
    assert list(arrivals.settled()) == []  # they are up
    for pool, actor, job, seconds in ((one, 0, "a", 0.9), (other, 1, "b", 1.0), (other, 1, "c", 1.9)):
        now = seconds
        pool.submit(call(job))
        world.end_one(actor)
        assert list(arrivals.settled()) == [(pool, job, job)]
        assert checked == ([] if seconds < 1 else [one, other])


@pytest.mark.parametrize("calls", [5, 7, 12])
def test_the_least_busy_actor_is_next_and_equals_take_turns(calls: int) -> None:
    world, given = World(), Counter[int]()

    def counting(actor: int) -> Any:
        return world.actor(work=lambda job: given.update([actor]))

    pool = Pool("worker", [counting(actor) for actor in range(5)], max_deaths=0)
    arrivals = Arrivals([pool])
    settle(arrivals)
    for job in range(calls):
        pool.submit(call(job))
    full = min(calls, 5 * MAX_IN_FLIGHT)
    assert sorted(given.values()) == sorted(full // 5 + (actor < full % 5) for actor in range(5))
    while sum(pool.depths):
        world.end_one()
        settle(arrivals)
    given.clear()
    for job in range(10):  # one after the other: nobody is left out
        pool.submit(call(job))
        world.end_one()
        settle(arrivals)
    assert set(given.values()) == {2}


def test_the_actor_that_has_room_is_given_the_call_that_waits() -> None:
    world = World()
    pool = pool_of(world, 3)
    arrivals = Arrivals([pool])
    settle(arrivals)
    for job in range(7):
        pool.submit(call(job))
    assert pool.depths == (1, 6)
    world.end_one(actor=1)
    settle(arrivals)
    assert pool.depths == (0, 6)
    assert [world.end_one(actor=1), world.end_one(actor=1)] == [1, 1]
