"""The learner group: every rank takes part, the first answers, and a lost rank is named, whoever complains first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import ray
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from cluster.crew.learner_group import LearnerGroup, all_of
from cluster.errors import Hung
from learner.ranks import RankLost

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


class Rank:
    """Writes down what it was told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.silent = False

    def listen(self, address: str) -> int:
        self.told.append(("listen", address))
        return 1234

    def join(self, *arguments: Any) -> None:
        self.told.append(arguments)

    def update(self, scores: Any, *trajectories: str, candidates: Any = None) -> tuple[Any, Any]:
        self.told.append((scores, trajectories))
        return len(self.told), f"weights of {len(trajectories)}"

    def restore(self, path: str) -> int:
        self.weights("acting")
        self.told.append(path)
        return 7

    def weights(self, which: str) -> str:
        time.sleep(60 if self.silent else 0.5)
        return "weights"

    def save(self, *arguments: Any) -> None:
        self.weights("acting")

    def fall_silent(self) -> None:
        self.silent = True

    def memory(self) -> list[Any]:
        return self.told

    def lose_touch(self) -> None:
        raise RankLost("connection closed by peer")

    def read_what_is_gone(self) -> None:
        raise ObjectLostError("00" * 28, None, "")

    def fail(self) -> None:
        raise ValueError("no")

    def wait_for(self, other: list[Any]) -> None:
        ray.get(other[0].memory.remote(), timeout=0.5)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def die(self) -> None:
        os._exit(1)


@pytest.fixture
def make() -> Iterator[Callable[..., LearnerGroup]]:
    """Starts a group; its actors are killed at the end."""
    started: list[Any] = []

    def group(count: int, patience: float = 60) -> LearnerGroup:
        actor: Any = ray.remote(Rank)
        started.extend(actor.options(num_cpus=0).remote() for _ in range(count))
        return LearnerGroup(started[-count:], 30.0, patience)

    yield group
    for actor in started:
        ray.kill(actor)


def test_every_rank_takes_part_and_the_first_one_answers(make: Callable[..., LearnerGroup]) -> None:
    group = make(3)
    group.join(60)
    updates, weights = group.update({}, [ray.put("a"), ray.put("b")])
    assert len(ray.get(updates)) == 3
    assert ray.get(weights) == "weights of 2"
    assert group.restore("checkpoint") == 7
    memories = ray.get([actor.memory.remote() for actor in group.actors])
    assert memories[0].pop(0)[0] == "listen"
    for rank, told in enumerate(memories):
        (number, addresses, port, timeout), update, path = told
        assert (number, len(addresses), port, timeout) == (rank, 3, 1234, 30.0)
        assert (update, path) == (({}, ("a", "b")), "checkpoint")


def test_one_rank_meets_nobody(make: Callable[..., LearnerGroup]) -> None:
    group = make(1)
    group.join(60)
    assert ray.get(group.actors[0].memory.remote()) == []


def test_the_first_failure_is_raised_although_another_rank_still_works(make: Callable[..., LearnerGroup]) -> None:
    slow, failing = make(2).actors
    started = time.monotonic()
    with pytest.raises(ValueError, match="no"):
        all_of([slow.sleep.remote(60), failing.fail.remote()])
    assert time.monotonic() - started < 50


def error_of(reference: ray.ObjectRef) -> Exception:
    with pytest.raises((RayActorError, RayTaskError)) as caught:
        ray.get(reference)
    return caught.value


def test_the_rank_that_died_is_named_whoever_complains_first(make: Callable[..., LearnerGroup]) -> None:
    group = make(2)
    first, second = group.actors
    death = error_of(second.die.remote())
    for error in (death, error_of(first.lose_touch.remote())):
        assert str(group.lost(error)).startswith("Learner rank 1 died")


def test_a_rank_that_does_not_answer_is_named(make: Callable[..., LearnerGroup]) -> None:
    group = make(2)
    group.actors[1].sleep.remote(60)
    assert group.lost(error_of(group.actors[0].lose_touch.remote())) == "Learner rank 1 does not answer."


def test_without_a_culprit_the_complaint_itself_is_passed_on(make: Callable[..., LearnerGroup]) -> None:
    group = make(2)
    assert "connection closed by peer" in str(group.lost(error_of(group.actors[0].lose_touch.remote())))


def test_data_that_went_with_a_node_count_as_a_loss(make: Callable[..., LearnerGroup]) -> None:
    group = make(1)
    assert "went with the node" in str(group.lost(error_of(group.actors[0].read_what_is_gone.remote())))


def test_weights_are_there_before_anyone_is_told_of_them(make: Callable[..., LearnerGroup]) -> None:
    group = make(1)
    assert ray.wait([group.weights()], timeout=0)[0]
    group.actors[0].die.remote()
    with pytest.raises(RayActorError):
        group.weights()


def test_one_whose_constructor_raised_is_not_lost_because_it_would_raise_again(ray_cluster: None) -> None:
    class Broken:
        def __init__(self) -> None:
            raise ValueError("no weights")

    actor = ray.remote(Broken).options(num_cpus=0).remote()  # type: ignore[attr-defined]
    assert LearnerGroup([actor], 30.0).lost(error_of(actor.__ray_ready__.remote())) is None


def test_a_store_that_does_not_answer_a_sampler_is_named(make: Callable[..., LearnerGroup]) -> None:
    group, (store, sampler) = make(1), make(2).actors
    store.sleep.remote(60)
    error = error_of(sampler.wait_for.remote([store]))
    assert group.lost(error, {"The weight store": store}) == "The weight store does not answer."


def test_other_errors_are_no_loss(make: Callable[..., LearnerGroup]) -> None:
    group = make(2)
    assert group.lost(error_of(group.actors[0].fail.remote())) is None


def test_the_weight_store_that_died_is_named_by_what_depended_on_it(make: Callable[..., LearnerGroup]) -> None:
    group, (store, sampler) = make(1), make(2).actors
    error_of(store.die.remote())
    error = error_of(sampler.fail.remote())
    assert group.lost(error) is None
    assert str(group.lost(error, {"The weight store": store})).startswith("The weight store died")


@pytest.mark.parametrize(
    ("method", "arguments", "verb"),
    [
        ("weights", (), "given its weights"),
        ("save", ("folder", 3), "written a checkpoint"),
        ("restore", ("checkpoint",), "read its checkpoint"),
    ],
)
def test_a_learner_that_hangs_is_not_waited_for_forever(
    make: Callable[..., LearnerGroup], method: str, arguments: tuple[Any, ...], verb: str
) -> None:
    group = make(1, patience=2)
    ray.get(group.actors[0].fall_silent.remote())
    with pytest.raises(Hung, match=rf"The learner has not {verb} in 2 s \(failures\.patience\.learn\)") as caught:
        getattr(group, method)(*arguments)
    assert group.lost(caught.value) == str(caught.value)
