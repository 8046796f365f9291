"""The pool of actors: how calls are spread, what a killed process costs, and when it gives up."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from cluster.crew.pool import Call, Pool
from cluster.errors import ActorsLost, StartError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

Start = Callable[..., Pool]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a pool of `count` workers; a worker's calls leave marks in `tmp_path` and wait for marks there."""

    class Worker:  # local, so that Ray ships it by value
        def __init__(self, folder: Path) -> None:
            self.folder = folder
            (folder / f"born-{os.getpid()}").touch()
            if (folder / "slow-start").exists():
                self.until("loaded")

        def until(self, mark: str) -> None:
            while not (self.folder / mark).exists():
                time.sleep(0.01)

        def ready(self) -> None:
            pass

        def pid(self) -> int:
            return os.getpid()

        def work(self, job: Any, mark: str = "go") -> tuple[Any, int]:
            (self.folder / f"start-{job}-{os.getpid()}").touch()
            self.until(mark)
            return job, os.getpid()

        def big(self, job: Any) -> np.ndarray:
            (self.folder / f"big-{job}-{time.monotonic_ns()}").touch()
            return np.zeros(1_000_000, np.uint8)

        def meet(self, own: str, other: str) -> str:
            (self.folder / own).touch()
            self.until(other)
            return own

        def die(self) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def fail(self) -> None:
            (self.folder / f"failed-{time.monotonic_ns()}").touch()
            raise ValueError("not my kind of job")

        def ask(self, other: list[ActorHandle]) -> None:
            ray.get(other[0].ready.remote())

    started: list[Pool] = []

    def make(count: int, max_deaths: int = 5, patience: float = 60) -> Pool:
        role: Any = ray.remote(Worker)
        actors = [role.options(num_cpus=0, max_restarts=-1, max_task_retries=0).remote(tmp_path) for _ in range(count)]
        started.append(Pool("worker", actors, max_deaths, patience))
        started[-1].start(count, patience=60)
        return started[-1]

    yield make
    for pool in started:
        for actor in pool.actors:
            ray.kill(actor)


def call(job: Any, method: str, *args: Any) -> Call:
    return Call(job, lambda actor: [getattr(actor, method).remote(*args)])


def harvest(pool: Pool) -> list[tuple[Any, Any]]:
    """Everything that the pool reports until it has nothing under way."""
    settled = []
    while pool.references:
        ready, _ = ray.wait(pool.references, num_returns=1)
        settled += [found for reference in ready if (found := pool.settle(reference))]
    return settled


def settle_until(pool: Pool, done: Callable[[], object]) -> None:
    """Settle whatever comes, none of which is a result, until something else has happened."""
    while not done():
        for reference in ray.wait(pool.references, num_returns=1, timeout=0.05)[0]:
            assert pool.settle(reference) is None


def marks(folder: Path, pattern: str) -> list[str]:
    return sorted(path.name for path in folder.glob(pattern))


def wait_for_marks(folder: Path, pattern: str, count: int) -> list[str]:
    while len(found := marks(folder, pattern)) < count:
        time.sleep(0.01)
    return found


def test_different_actors_work_at_the_same_time(start: Start) -> None:
    pool = start(2)
    pool.submit(call("a", "meet", "a", "b"))  # each returns only when the other one has begun
    pool.submit(call("b", "meet", "b", "a"))
    began = time.time()
    assert sorted(harvest(pool)) == [("a", "a"), ("b", "b")]
    worked = pool.take_work()
    assert sorted(actor for actor, _, _ in worked) == [0, 1]
    assert all(began - 60 < started <= started + seconds <= time.time() + 0.1 for _, started, seconds in worked)
    assert pool.take_work() == []  # said once


def test_no_actor_holds_more_than_two_calls_and_the_rest_wait_in_line(start: Start, tmp_path: Path) -> None:
    pool = start(2)
    for job in range(7):
        pool.submit(call(job, "work", job))
    assert len(pool.references) == 4
    (tmp_path / "go").touch()
    results = harvest(pool)
    assert sorted(job for job, _ in results) == list(range(7))
    by_process = {pid for _, (_, pid) in results}
    assert len(by_process) == 2
    assert len(marks(tmp_path, "start-*")) == 7


def test_a_free_actor_is_given_the_next_call_while_another_is_busy(start: Start, tmp_path: Path) -> None:
    pool = start(2)
    pool.submit(call("long", "work", "long", "end"))
    for job in range(6):
        pool.submit(call(job, "work", job))
    (tmp_path / "go").touch()
    # All but the long call, and the one that waits behind it, come back while it runs.
    finished: list[Any] = []
    while len(finished) < 5:
        ready, _ = ray.wait(pool.references, num_returns=1)
        finished += [pool.settle(reference) for reference in ready]
    (tmp_path / "end").touch()
    assert {job for job, _ in (*finished, *harvest(pool))} == {"long", *range(6)}


def test_the_calls_of_a_killed_process_run_again_and_none_is_reported_twice(start: Start, tmp_path: Path) -> None:
    pool = start(2)
    for job in range(6):
        pool.submit(call(job, "work", job))
    victim = wait_for_marks(tmp_path, "start-*", 2)[0]
    job, pid = map(int, victim.removeprefix("start-").split("-"))
    os.kill(pid, signal.SIGKILL)
    settle_until(pool, lambda: pool.deaths)
    (tmp_path / "go").touch()
    results = harvest(pool)
    assert sorted(name for name, _ in results) == list(range(6))
    assert all(name == value and process != pid for name, (value, process) in results)
    assert len(marks(tmp_path, f"start-{job}-*")) == 2
    assert len(marks(tmp_path, "start-*")) == 7
    assert pool.deaths == 1


def test_a_lone_actor_comes_back_and_finishes_its_own_calls(start: Start, tmp_path: Path) -> None:
    pool = start(1)
    pid = ray.get(pool.actors[0].pid.remote())
    for job in range(3):
        pool.submit(call(job, "work", job))
    wait_for_marks(tmp_path, "start-*", 1)
    os.kill(pid, signal.SIGKILL)
    (tmp_path / "go").touch()
    assert sorted(job for job, _ in harvest(pool)) == [0, 1, 2]
    assert pool.deaths == 1
    assert len(marks(tmp_path, "born-*")) == 2


def test_an_actor_that_takes_long_to_load_again_has_died_once(start: Start, tmp_path: Path) -> None:
    pool = start(2, max_deaths=1)
    pid = ray.get(pool.actors[0].pid.remote())
    for job in range(4):
        pool.submit(call(job, "work", job))
    wait_for_marks(tmp_path, f"start-*-{pid}", 1)
    (tmp_path / "slow-start").touch()
    os.kill(pid, signal.SIGKILL)
    settle_until(pool, lambda: len(marks(tmp_path, "born-*")) == 3)
    (tmp_path / "go").touch()  # the other actor does the work of both meanwhile
    results: list[Any] = []
    while len(results) < 4:
        ready, _ = ray.wait(pool.references, num_returns=1)
        results += [found for reference in ready if (found := pool.settle(reference))]
    assert {process for _, (_, process) in results} == {ray.get(pool.actors[1].pid.remote())}
    (tmp_path / "loaded").touch()
    assert harvest(pool) == []
    assert pool.deaths == 1


def test_a_role_that_keeps_dying_ends_the_run_in_one_sentence(start: Start) -> None:
    pool = start(1, max_deaths=2)
    pool.submit(call("a", "die"))
    with pytest.raises(ActorsLost, match=r"'worker' died 3 times, more than failures\.max_deaths=2") as caught:
        harvest(pool)
    assert "\n" not in str(caught.value)
    assert pool.deaths == 3


def test_an_exception_in_a_call_is_reported_and_not_retried(start: Start, tmp_path: Path) -> None:
    pool = start(1)
    (tmp_path / "go").touch()
    pool.submit(call("bad", "fail"))
    pool.submit(call("good", "work", "good"))
    results = dict(harvest(pool))
    assert isinstance(results["bad"], RayTaskError)
    assert isinstance(results["bad"].cause, ValueError)
    assert results["good"][0] == "good"
    assert len(marks(tmp_path, "failed-*")) == 1
    assert pool.deaths == 0


def test_the_death_of_another_actor_that_a_call_needs_is_not_its_own_actors(start: Start) -> None:
    class Store:
        def ready(self) -> None:
            pass

    store = ray.remote(Store).options(num_cpus=0).remote()  # type: ignore[attr-defined]
    ray.get(store.ready.remote())
    ray.kill(store)
    pool = start(2, max_deaths=0)
    for job in range(6):
        pool.submit(call(job, "ask", [store]))
    results = harvest(pool)
    assert sorted(job for job, _ in results) == list(range(6))
    assert all(isinstance(error, RayTaskError) and isinstance(error.cause, RayActorError) for _, error in results)
    assert pool.deaths == 0


def test_deaths_before_the_last_progress_do_not_count(start: Start) -> None:
    pool = start(1, max_deaths=1)
    for deaths in (1, 2, 3):
        os.kill(ray.get(pool.actors[0].pid.remote()), signal.SIGKILL)
        pool.submit(call("a", "pid"))
        harvest(pool)
        assert pool.deaths == deaths
        pool.progressed()
    pool.submit(call("a", "die"))
    with pytest.raises(ActorsLost, match=r"died 2 times, more than failures\.max_deaths=1 allows between two"):
        harvest(pool)


def test_a_role_that_never_comes_back_ends_the_run_in_a_sentence(start: Start, tmp_path: Path) -> None:
    pool = start(1)
    pool.start(1, patience=1)
    (tmp_path / "slow-start").touch()
    os.kill(ray.get(pool.actors[0].pid.remote()), signal.SIGKILL)
    pool.submit(call("a", "pid"))
    settle_until(pool, lambda: pool.deaths)
    with pytest.raises(ActorsLost, match=r"No actor of the role 'worker' has come back within .*start=1 s"):  # noqa: PT012
        while True:
            time.sleep(0.1)
            pool.check()


def test_a_call_whose_result_was_lost_runs_again_and_nobody_has_died(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, get = start(1), ray.get
    pool.submit(call("big", "big", "big"))
    (lost,) = pool.references

    def get_unless_lost(reference: Any, **options: Any) -> Any:
        if reference == lost:
            raise ObjectLostError(lost.hex(), None, "")
        return get(reference, **options)

    monkeypatch.setattr(ray, "get", get_unless_lost)
    ((job, value),) = harvest(pool)
    assert (job, len(value)) == ("big", 1_000_000)
    assert len(marks(tmp_path, "big-*")) == 2
    assert pool.deaths == 0


def test_a_paused_process_is_killed_and_its_calls_run_again(start: Start, tmp_path: Path) -> None:
    pool = start(2, patience=2)
    victim = ray.get(pool.actors[0].pid.remote())
    os.kill(victim, signal.SIGSTOP)
    (tmp_path / "go").touch()
    for job in range(4):
        pool.submit(call(job, "work", job))
    results: list[Any] = []
    while pool.references:
        ready, _ = ray.wait(pool.references, num_returns=1, timeout=0.2)
        results += [found for reference in ready if (found := pool.settle(reference))]
        pool.check()
    assert sorted(job for job, _ in results) == [0, 1, 2, 3]
    assert pool.deaths == 1
    assert len(marks(tmp_path, "born-*")) == 3
    assert not Path(f"/proc/{victim}").exists()


def test_a_call_that_waits_behind_another_is_not_taken_to_hang(start: Start, tmp_path: Path) -> None:
    pool = start(1, patience=3)
    pool.submit(call("first", "work", "first", "go first"))
    pool.submit(call("second", "work", "second", "go second"))
    began = time.monotonic()
    while len(pool.references) == 2:
        if time.monotonic() - began > 2:
            (tmp_path / "go first").touch()
        for reference in ray.wait(pool.references, num_returns=1, timeout=0.1)[0]:
            assert pool.settle(reference) is not None
        pool.check()
    while time.monotonic() - began < 4:  # the second has been submitted for longer than the patience, but not running
        pool.check()
    (tmp_path / "go second").touch()
    assert [job for job, _ in harvest(pool)] == ["second"]
    assert pool.deaths == 0


def test_an_actor_without_room_joins_later(ray_cluster: None) -> None:
    class Slow:
        def __init__(self, mark: Path | None) -> None:
            while mark is not None and not mark.exists():
                time.sleep(0.01)

        def ready(self) -> None:
            pass

        def pid(self) -> int:
            return os.getpid()

    with tempfile.TemporaryDirectory() as folder:
        role: Any = ray.remote(Slow)
        actors = [role.options(num_cpus=0).remote(mark) for mark in (None, Path(folder) / "room")]
        ray.get(actors[0].ready.remote())
        pool = Pool("worker", actors, max_deaths=0)
        with pytest.raises(StartError, match=r"Only 1 of 2 actors of the role 'worker' were up after .*=1 s"):
            pool.start(2, patience=1)
        pool.start(1, patience=0)
        pool.submit(call("before", "pid"))
        while len(pool.references) > 1:
            (alone,) = [pool.settle(reference) for reference in ray.wait(pool.references)[0]]
        (Path(folder) / "room").touch()
        pool.start(2, patience=60)
        for job in range(4):
            pool.submit(call(job, "pid"))
        assert alone is not None
        assert {pid for _, pid in harvest(pool)} > {alone[1]}
        for actor in actors:
            ray.kill(actor)
