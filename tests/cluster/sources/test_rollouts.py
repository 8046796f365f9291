"""Rollouts: request -> sampler -> rewards, whoever runs them, in whatever order, and whoever dies on the way."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import ObjectLostError, RayTaskError

from actors.trajectories import Request
from cluster.crew.pool import Pool
from cluster.errors import Hung
from cluster.prompts import make_requests
from cluster.sources.rollouts import Rollout, Rollouts
from rewards.errors import RewardUnavailable
from rewards.reward import Scores

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

Start = Callable[..., Rollouts]
BOTH = (("level", "half"),)
APART = (("level",), ("half",))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts samplers whose images are a function of the request, and rewards that read it off the images.

    An actor stops at `hold-<role>-<prompt>` until it is gone, and fails where a prompt says so.
    """

    class Actor:  # local, so that Ray ships it by value
        def __init__(self, folder: Path, role: str) -> None:
            self.folder, self.role = folder, role

        def ready(self) -> None:
            pass

        def enter(self, prompt: str) -> None:
            (self.folder / f"{self.role}-{prompt}-{time.monotonic_ns()}-{os.getpid()}").touch()
            while (self.folder / f"hold-{self.role}-{prompt}").exists():
                time.sleep(0.01)

        def rollout(self, request: Any, version: int, weights: Any = None) -> tuple[dict, np.ndarray, tuple]:
            self.enter(request.prompts[0])
            if request.prompts[0] == "sampler fails":
                raise RuntimeError("the store has none newer")
            levels = np.array(request.prompt_index) * 10 + np.array(request.sample_index)
            receipt = {"version": version if weights is None else weights, "started": 1.0, "seconds": 2.0}
            return receipt, np.tile(levels[:, None, None, None], (1, 2, 2, 3)).astype(np.uint8), request.prompt_index

        def score(self, pixels: np.ndarray, prompts: Any, features: str | None = None, strict: bool = False) -> Scores:
            assert len(pixels) == len(prompts)
            self.enter(prompts[0])
            if prompts[0] == f"{self.role} fails":
                raise ValueError("cannot judge this")
            if prompts[0] == "reward gone":
                raise RewardUnavailable("it has not answered for a minute")
            if prompts[0] == "images lost" and len(list(self.folder.glob(f"{self.role}-images lost-*"))) == 1:
                raise ObjectLostError("00", "", "")
            names = tuple(self.role.split()[1:])
            level = pixels[:, 0, 0, 0].astype(np.float32)
            values = np.stack([{"level": level, "half": level / 2}[name] for name in names])
            assert features is None or features in names
            embedding = None if features is None else pixels.reshape(len(pixels), -1).astype(np.float32)
            return Scores(names, values, embedding)

    actors: list[Any] = []

    def pool(role: str, count: int) -> Pool:
        kind: Any = ray.remote(Actor)
        kind = kind.options(num_cpus=0, max_restarts=-1, max_task_retries=0)
        found = [kind.remote(tmp_path, role) for _ in range(count)]
        actors.extend(found)
        return Pool(role, found, max_deaths=3)

    def make(samplers: int = 1, rewards: int = 1, pools: Sequence[tuple[str, ...]] = BOTH) -> Rollouts:
        of_rewards = {names: pool(f"reward {' '.join(names)}", rewards) for names in pools}
        return Rollouts(pool("sampler", samplers), of_rewards)

    yield make
    for actor in actors:
        ray.kill(actor)


def requests(*prompts: str) -> list[Request]:
    """One request of three samples for each prompt."""
    return make_requests(prompts, 3, 3, seed=0, iteration=0)


def collect(rollouts: Rollouts, keys: range | list) -> dict[Any, Rollout]:
    done: dict[Any, Rollout] = {}
    while len(done) < len(keys):
        rollouts.wait()
        done |= {key: found for key in keys if (found := rollouts.take(key)) is not None}
    return done


@ray.remote(num_cpus=0)
def appears(folder: Path, pattern: str, times: int = 1) -> None:
    while len(list(folder.glob(pattern))) < times:
        time.sleep(0.01)


def test_a_request_comes_back_sampled_and_scored(start: Start) -> None:
    rollouts, asked = start(), requests("a", "b")
    for key, request in zip("ab", asked, strict=True):
        rollouts.submit(key, request, version=4)
    done = collect(rollouts, ["a", "b"])["b"]
    assert (done.request, done.version, done.started, done.seconds) == (asked[1], 4, 1.0, 2.0)
    np.testing.assert_array_equal(done.scores["level"], [10, 11, 12])
    np.testing.assert_array_equal(done.scores["half"], [5, 5.5, 6])
    assert ray.get(done.pixels)[:, 0, 0, 0].tolist() == [10, 11, 12]
    assert ray.get(done.trajectories) == asked[1].prompt_index
    assert done.features is None
    assert rollouts.take("b") is None


def test_given_weights_and_features_reach_the_actors(start: Start) -> None:
    rollouts = start()
    rollouts.submit(0, requests("a")[0], version=4, weights=ray.put(17), features="level")
    done = collect(rollouts, [0])[0]
    assert done.version == 17
    assert done.features is not None
    assert done.features.shape == (3, 12)
    assert done.features[:, 0].tolist() == [0, 1, 2]


def test_results_do_not_depend_on_who_ran_them_or_which_came_first(start: Start, tmp_path: Path) -> None:
    prompts = [f"p{i}" for i in range(8)]
    asked = requests(*prompts)
    hold = tmp_path / "hold-sampler-p0"
    results = []
    for samplers in (1, 3):
        rollouts = start(samplers, rewards=samplers)
        if samplers > 1:
            hold.touch()
        for key, request in enumerate(asked):
            rollouts.submit(key, request, version=0)
        if samplers > 1:
            # At most one call waits behind the one that is held.
            early = {}
            while len(early) < 6:
                rollouts.wait()
                early |= {key: found for key in range(8) if (found := rollouts.take(key)) is not None}
            assert 0 not in early
            hold.unlink()
            results.append(early | collect(rollouts, [key for key in range(8) if key not in early]))
        else:
            results.append(collect(rollouts, range(8)))
    for key, request in enumerate(asked):
        alone, shared = results[0][key], results[1][key]
        assert alone.request == shared.request == request
        np.testing.assert_array_equal(alone.scores["level"], shared.scores["level"])
        np.testing.assert_array_equal(ray.get(alone.pixels), ray.get(shared.pixels))


def test_a_reward_that_is_gone_for_good_ends_the_run_with_its_sentence(start: Start) -> None:
    rollouts = start()
    rollouts.submit(0, requests("reward gone")[0], version=0)
    with pytest.raises(RayTaskError) as error:
        collect(rollouts, [0])
    assert isinstance(error.value.cause, RewardUnavailable)
    assert str(error.value.cause) == "it has not answered for a minute"


def test_a_reward_that_raises_costs_the_samples_it_was_given_and_no_others(start: Start, tmp_path: Path) -> None:
    rollouts = start()
    for key, request in enumerate(requests("fine", "reward level half fails", "fine too")):
        rollouts.submit(key, request, version=0, features="level")
    done = collect(rollouts, range(3))
    assert {name: np.isnan(v).tolist() for name, v in done[1].scores.items()} == dict.fromkeys(BOTH[0], [True] * 3)
    assert done[1].features is None
    assert np.isfinite([done[0].scores["level"], done[2].scores["level"]]).all()
    assert len(list(tmp_path.glob("reward level half-reward level half fails-*"))) == 1


def test_pools_of_rewards_are_asked_side_by_side_and_merged(start: Start, tmp_path: Path) -> None:
    rollouts = start(pools=APART)
    hold = tmp_path / "hold-reward level-a"
    hold.touch()
    rollouts.submit(0, requests("a")[0], version=0, features="half")
    answered = appears.remote(tmp_path, "reward half-a-*")
    while not ray.wait([answered], timeout=0)[0]:
        rollouts.wait(also=[answered])
    assert rollouts.take(0) is None
    hold.unlink()
    done = collect(rollouts, [0])[0]
    assert {name: values.tolist() for name, values in done.scores.items()} == {"level": [0, 1, 2], "half": [0, 0.5, 1]}
    assert done.features is not None
    assert done.features[:, 0].tolist() == [0, 1, 2]
    assert len(list(tmp_path.glob("sampler-a-*"))) == 1


@pytest.mark.parametrize("features", [None, "level", "half"])
def test_a_pool_that_fails_costs_its_own_scores_only(start: Start, features: str | None) -> None:
    rollouts = start(pools=APART)
    rollouts.submit(0, requests("reward half fails")[0], version=0, features=features)
    done = collect(rollouts, [0])[0]
    assert done.scores["level"].tolist() == [0, 1, 2]
    assert np.isnan(done.scores["half"]).all()
    assert (done.features is not None) == (features == "level")


def test_images_that_every_pool_has_lost_are_sampled_again_once(start: Start, tmp_path: Path) -> None:
    rollouts = start(pools=APART)
    hold = tmp_path / "hold-reward half-images lost"
    hold.touch()
    rollouts.submit(0, requests("images lost")[0], version=0)
    again = appears.remote(tmp_path, "sampler-images lost-*", 2)
    while not ray.wait([again], timeout=0)[0]:
        rollouts.wait(also=[again])
    hold.unlink()  # its first answer comes when the images are being sampled again already
    done = collect(rollouts, [0])[0]
    assert {name: values.tolist() for name, values in done.scores.items()} == {"level": [0, 1, 2], "half": [0, 0.5, 1]}
    assert len(list(tmp_path.glob("sampler-images lost-*"))) == 2
    assert len(list(tmp_path.glob("reward half-images lost-*"))) == 2


def test_an_exception_in_a_sampler_is_raised(start: Start) -> None:
    rollouts = start()
    rollouts.submit(0, requests("sampler fails")[0], version=0)
    with pytest.raises(RuntimeError, match="the store has none newer"):
        collect(rollouts, [0])


@pytest.mark.parametrize(("role", "sampled"), [("reward level half", 1), ("sampler", 2)])
def test_a_killed_actor_changes_no_result(start: Start, tmp_path: Path, role: str, sampled: int) -> None:
    rollouts, asked = start(samplers=2, rewards=2), requests("a", "b", "c", "d")
    hold = tmp_path / f"hold-{role}-a"
    hold.touch()
    for key, request in enumerate(asked):
        rollouts.submit(key, request, version=0)
    done: dict[int, Rollout] = {}
    reached = appears.remote(tmp_path, f"{role}-a-*")
    while not ray.wait([reached], timeout=0)[0]:
        rollouts.wait(also=[reached])
        done |= {key: found for key in range(4) if (found := rollouts.take(key)) is not None}
    (mark,) = tmp_path.glob(f"{role}-a-*")
    os.kill(int(mark.name.rsplit("-", 1)[1]), signal.SIGKILL)
    hold.unlink()
    done |= collect(rollouts, [key for key in range(4) if key not in done])
    for key, request in enumerate(asked):
        assert done[key].request == request
        assert done[key].scores["level"].tolist() == [key * 10, key * 10 + 1, key * 10 + 2]
        assert ray.get(done[key].trajectories) == request.prompt_index
    assert len(list(tmp_path.glob("sampler-a-*"))) == sampled  # images that exist are not sampled again
    assert len(list(tmp_path.glob("reward level half-a-*"))) == 3 - sampled


def test_images_that_were_lost_are_sampled_again(start: Start, tmp_path: Path) -> None:
    rollouts = start()
    rollouts.submit(0, requests("images lost")[0], version=0)
    done = collect(rollouts, [0])[0]
    assert done.scores["level"].tolist() == [0, 1, 2]
    assert len(list(tmp_path.glob("sampler-images lost-*"))) == 2


def test_waiting_ends_when_the_other_reference_is_ready(start: Start, tmp_path: Path) -> None:
    rollouts = start()
    hold = tmp_path / "hold-sampler-a"
    hold.touch()
    rollouts.submit(0, requests("a")[0], version=0)
    rollouts.wait(also=[ray.put("update")])
    assert rollouts.take(0) is None
    hold.unlink()
    assert collect(rollouts, [0])[0].scores["level"].tolist() == [0, 1, 2]


class Busy(Rollouts):
    """Has three rollouts under way, and marks when the last has ended."""

    def __init__(self, mark: Path) -> None:
        self.left, self.mark = 3, mark
        self.also: list[list[ray.ObjectRef]] = []

    def wait(self, also: Sequence[ray.ObjectRef] = ()) -> None:
        self.left -= 1
        self.also.append(list(also))
        if not self.left:
            self.mark.touch()
            ray.wait([*also])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_rollouts_go_on_while_the_driver_waits_for_the_learner(tmp_path: Path) -> None:
    @ray.remote
    def update(mark: Path) -> str:
        while not mark.exists():
            time.sleep(0.01)
        return "updated"

    rollouts = Busy(tmp_path / "done")
    reference = update.options(num_cpus=0).remote(tmp_path / "done")
    assert rollouts.wait_for([reference], 60) == ["updated"]
    assert rollouts.also == [[reference]] * 3
    rollouts.left = 10**9
    with pytest.raises(Hung, match=r"in 0\.5 s"):
        rollouts.wait_for([update.options(num_cpus=0).remote(tmp_path / "never")], 0.5)
