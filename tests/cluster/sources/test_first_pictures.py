"""Rewards of all kinds before a run, as real reward actors behind a sampler that only pretends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayTaskError

from cluster.config import Config, RewardConfig
from cluster.crew.pool import Pool
from cluster.errors import StartError
from cluster.prompts import make_requests
from cluster.sources.first_pictures import check_rewards
from cluster.sources.rollouts import Rollouts
from rewards.actor import RewardActor
from rewards.errors import RewardFailed, RewardUnavailable
from rewards.function import as_reward
from rewards.prompt import Prompt
from rewards.reward import Reward

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

Function = Callable[[torch.Tensor, Sequence[Any]], Any]
Ask = Callable[..., None]
Start = Callable[..., tuple[Rollouts, dict[tuple[str, ...], Pool]]]


def brightness(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    return images.mean((1, 2, 3))


@pytest.fixture(scope="module")
def sampler(ray_cluster: None) -> Iterator[Any]:
    """An actor that samples noise; all tests share it, since none harms it and a process takes its time to start."""

    class Noise:  # local, so that Ray ships it by value
        def ready(self) -> None:
            pass

        def rollout(self, request: Any, version: int, weights: Any = None) -> tuple[dict, np.ndarray, None]:
            pixels = np.random.default_rng(0).integers(0, 256, (len(request.prompts), 8, 8, 3), np.uint8)
            return {"version": version, "started": 0.0, "seconds": 1.0}, pixels, None

    actor = act(Noise)
    yield actor
    ray.kill(actor)


def act(role: type, *args: Any) -> Any:
    kind: Any = ray.remote(role)
    return kind.options(num_cpus=0, max_restarts=-1, max_task_retries=0).remote(*args)


@pytest.fixture
def start(sampler: Any) -> Iterator[Start]:
    """Starts one reward actor, which holds functions as rewards, beside the sampler."""
    actors: list[Any] = []

    def make(**functions: Callable[[], Reward]) -> tuple[Rollouts, dict[tuple[str, ...], Pool]]:
        actors.append(act(RewardActor, functions))
        rewards = {tuple(functions): Pool("RewardActor", actors[-1:], max_deaths=0)}
        return Rollouts(Pool("Noise", [sampler], max_deaths=0), rewards), rewards

    yield make
    for actor in actors:
        ray.kill(actor)


@pytest.fixture
def ask(start: Start, make_config: Callable[..., Config]) -> Ask:
    """Checks rewards that are given as functions; a name that begins with `watched` has no weight."""

    def check(*overrides: str, **functions: Function) -> None:
        config = make_config("evaluation.features=null", *overrides)
        weights = {name: float(not name.startswith("watched")) for name in functions}
        named = {name: RewardConfig(kind="brightness", weight=weight) for name, weight in weights.items()}
        rollouts, rewards = start(**{name: as_reward(f) for name, f in functions.items()})
        check_rewards(config.model_copy(update={"rewards": named}), rollouts, rewards)

    return check


def test_rewards_that_answer_pass(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    ask(own=brightness, other=lambda images, prompts: [len(prompt) for prompt in prompts])
    assert not caplog.records


def test_one_judged_picture_is_enough(ask: Ask) -> None:
    ask(own=lambda images, prompts: [1.0, *[float("nan")] * (len(images) - 1)])


def test_another_shape_ends_the_run_with_its_sentence(ask: Ask) -> None:
    for answer in (lambda images, prompts: images.mean(), lambda images, prompts: images.mean((1, 2, 3))[:, None]):
        with pytest.raises(RayTaskError) as error:
            ask(own=answer)
        assert isinstance(error.value.cause, RewardUnavailable)
        assert "'own'" in str(error.value.cause)
        assert "shape" in str(error.value.cause)


def test_a_reward_that_judges_nothing_is_refused(ask: Ask) -> None:
    with pytest.raises(RewardUnavailable, match="'own' answered all of them with NaN"):
        ask(own=lambda images, prompts: [float("nan")] * len(images))


def test_a_reward_that_raises_what_does_not_travel_is_refused_with_error_and_place(ask: Ask) -> None:
    class Unpicklable(Exception):
        def __init__(self, *, code: int) -> None:
            super().__init__(f"code {code}")
            self.lock = open("/dev/null")  # noqa: SIM115

    def broken(images: torch.Tensor, prompts: Sequence[str]) -> None:
        raise Unpicklable(code=7)

    with pytest.raises(
        RewardUnavailable, match=r"'own' .* raised Unpicklable: code 7 at .*test_first_pictures\.py:\d+"
    ):
        ask(own=broken)


def test_leaving_the_process_costs_no_actor(ask: Ask) -> None:
    def leave(images: torch.Tensor, prompts: Sequence[str]) -> None:
        raise SystemExit(0)

    with pytest.raises(RewardUnavailable, match="raised SystemExit: 0"):
        ask(own=leave)


def test_a_constructor_that_leaves_the_process_ends_the_run_at_once(start: Start) -> None:
    def leave() -> Reward:
        raise SystemExit(0)

    _, rewards = start(own=leave)
    with pytest.raises(StartError, match=r"cannot start: The reward 'own' cannot be built: SystemExit: 0 at ") as error:
        rewards["own",].start(1, patience=60)
    assert "\n" not in str(error.value)


def test_a_watched_reward_that_cannot_judge_costs_one_warning(ask: Ask, caplog: pytest.LogCaptureFixture) -> None:
    def broken(images: torch.Tensor, prompts: Sequence[str]) -> None:
        raise KeyError("my_key")

    caplog.set_level(logging.WARNING)
    nothing = lambda images, prompts: [float("inf")] * len(images)  # noqa: E731
    ask(own=brightness, watched_broken=broken, watched_nothing=nothing)
    first, second = sorted(record.getMessage() for record in caplog.records)
    assert "'watched_broken'" in first
    assert "KeyError: 'my_key' at" in first
    assert "'watched_nothing' judged none" in second


GRADIENTS = ["objective.name=refl", "reward_actors.gradients=actors"]


def test_gradients_are_asked_for_where_the_objective_needs_them(ask: Ask) -> None:
    def flows(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return images.square().mean((1, 2, 3))

    def breaks(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return images.detach().mean((1, 2, 3))

    def explodes(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return (images - images).sqrt().sum((1, 2, 3))

    def raises(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        if images.requires_grad:
            raise NotImplementedError("no way back")
        return images.mean((1, 2, 3))

    for function in (flows, breaks, explodes, raises):
        function.differentiable = True  # type: ignore[attr-defined]
    ask(*GRADIENTS, own=flows, watched=brightness)
    ask(own=breaks)  # nobody asks
    with pytest.raises(RewardUnavailable, match="no gradient flows"):
        ask(*GRADIENTS, own=breaks)
    with pytest.raises(RewardUnavailable, match="gradient of the reward 'own' is not finite"):
        ask(*GRADIENTS, own=explodes)
    with pytest.raises(RewardFailed, match="NotImplementedError: no way back"):
        ask(*GRADIENTS, own=raises)


def test_a_reward_that_fails_later_is_named_once_and_counted(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    def picky(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        if "bad" in prompts[0]:
            raise KeyError("my_key")
        return brightness(images, prompts)

    rollouts, _ = start(own=as_reward(picky), other=as_reward(brightness))
    for key, request in enumerate(make_requests(("good", "bad", "bad too"), 2, 2, seed=0)):
        rollouts.submit(key, request, 0)
    done = {}
    while len(done) < 3:
        rollouts.wait()
        done |= {key: found for key in range(3) if (found := rollouts.take(key)) is not None}
    assert [bool(np.isnan(done[key].scores["own"]).all()) for key in range(3)] == [False, True, True]
    assert all(np.isfinite(rollout.scores["other"]).all() for rollout in done.values())
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "'own'" in warning
    assert "KeyError: 'my_key' at" in warning


def test_metadata_of_prompts_reach_a_reward_in_its_actor(start: Start) -> None:
    def counted(images: torch.Tensor, prompts: Sequence[Prompt]) -> list[float]:
        return [prompt.metadata["count"] for prompt in prompts]

    rollouts, _ = start(own=as_reward(counted))
    (request,) = make_requests((Prompt("a", {"count": 3}), Prompt("b", {"count": 5})), 2, 4, seed=0)
    rollouts.submit(0, request, 0)
    while (done := rollouts.take(0)) is None:
        rollouts.wait()
    assert done.scores["own"].tolist() == [3, 3, 5, 5]
