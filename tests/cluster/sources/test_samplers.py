"""Fresh batches: in request order whatever arrives first, no further ahead than allowed, the same after a resume."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
import ray

from actors.trajectories import Request
from cluster.config import Config
from cluster.sources.rollouts import Rollout
from cluster.sources.samplers import Sampled
from learner.objectives.objective import Plan

Make = Callable[..., Config]

PLAN = Plan((0, 1))
SIZES = ("iterations=6", "policy.steps=5", "samplers.request_size=2")  # 12 samples an iteration: 6 requests


class FakeRollouts:
    """Finishes one request at a time, in an order of its own, and remembers what it was asked for."""

    def __init__(self, config: Config, seed: int = 0) -> None:
        self.config, self.random = config, random.Random(seed)
        self.asked: list[tuple[int, Request, int]] = []
        self.pending: dict[int, Rollout] = {}
        self.done: dict[int, Rollout] = {}
        self.version = 0  # of the policy, as the test sees it
        self.furthest = 0
        self.waits: list[Sequence[ray.ObjectRef]] = []

    def submit(self, number: int, request: Request, oldest: int) -> None:
        assert number not in {n for n, _, _ in self.asked}
        self.asked.append((number, request, oldest))
        self.pending[number] = Rollout(request, self.version, 0.0, 1.0, None, None, {"a": np.zeros(2)})  # type: ignore[arg-type]
        allowed = self.config.samplers.max_staleness
        lag = number // (self.config.batch_size // self.config.samplers.request_size) - self.version
        assert lag <= allowed
        assert len(self.pending) * self.config.samplers.request_size <= (allowed + 1) * self.config.batch_size
        self.furthest = max(self.furthest, lag)

    def wait(self, also: Sequence[ray.ObjectRef] = ()) -> None:
        self.waits.append(also)
        assert self.pending, "nothing is under way, so this would wait for ever"
        number = self.random.choice(list(self.pending))
        self.done[number] = self.pending.pop(number)

    def take(self, number: int) -> Rollout | None:
        return self.done.pop(number, None)

    def finished(self, keys: Iterable[int]) -> dict[int, Rollout]:
        return {key: found for key in keys if (found := self.take(key)) is not None}


def run(config: Config, seed: int = 0, version: int = 0, plan: Plan = PLAN) -> tuple[list[list[Rollout]], FakeRollouts]:
    """Every batch from a version to the end."""
    rollouts = FakeRollouts(config, seed)
    rollouts.version = version
    source = Sampled(config, rollouts, version, [plan] * config.iterations)  # type: ignore[arg-type]
    found = []
    while rollouts.version < config.iterations:
        found.append(source.batch(rollouts.version))
        rollouts.version += 1
    return found, rollouts


@pytest.mark.parametrize("staleness", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_batches_are_in_request_order_whatever_arrives_first(make_config: Make, staleness: int, seed: int) -> None:
    config = make_config(*SIZES, f"samplers.max_staleness={staleness}")
    found, _ = run(config, seed)
    for iteration, batch in enumerate(found):
        rows = [
            (rollout.request.iteration, prompt, sample)
            for rollout in batch
            for prompt, sample in zip(rollout.request.prompt_index, rollout.request.sample_index, strict=True)
        ]
        assert rows == [(iteration, prompt, sample) for prompt in range(3) for sample in range(4)]


@pytest.mark.parametrize("staleness", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_trained_on_that_is_staler_than_allowed(make_config: Make, staleness: int, seed: int) -> None:
    config = make_config(*SIZES, f"samplers.max_staleness={staleness}")
    found, rollouts = run(config, seed)
    lags = [version - rollout.version for version, batch in enumerate(found) for rollout in batch]
    assert max(lags) == staleness  # the allowance holds, and it is used
    assert rollouts.furthest == staleness


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_every_request_is_asked_once_and_used_and_none_beyond_the_end(make_config: Make, staleness: int) -> None:
    found, rollouts = run(make_config(*SIZES, f"samplers.max_staleness={staleness}"))
    assert [number for number, _, _ in rollouts.asked] == list(range(6 * 6))
    assert [rollout.request for batch in found for rollout in batch] == [request for _, request, _ in rollouts.asked]
    assert not rollouts.pending
    assert not rollouts.done


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_the_oldest_weights_that_may_act_are_max_staleness_before_the_batch(make_config: Make, staleness: int) -> None:
    _, rollouts = run(make_config(*SIZES, f"samplers.max_staleness={staleness}"))
    for _, request, oldest in rollouts.asked:
        assert oldest == max(0, request.iteration - staleness)


@pytest.mark.parametrize("staleness", [0, 2])
@pytest.mark.parametrize("version", [1, 4, 6])
def test_a_resumed_run_asks_exactly_what_an_uninterrupted_one_would_have(
    make_config: Make, staleness: int, version: int
) -> None:
    config = make_config(*SIZES, "prompts.per_iteration=2", f"samplers.max_staleness={staleness}", "seed=9")
    whole, _ = run(config, seed=1)
    resumed, rollouts = run(config, seed=2, version=version)
    assert [[r.request for r in batch] for batch in resumed] == [
        [r.request for r in batch] for batch in whole[version:]
    ]
    assert len(rollouts.asked) == (6 - version) * 4


def test_prompts_of_successive_iterations_go_round_the_list(make_config: Make) -> None:
    found, _ = run(make_config(*SIZES, "prompts.per_iteration=1"))
    prompts = [batch[0].request.prompts[0] for batch in found]
    assert sorted(prompts[:3]) == sorted(prompts[3:]) == ["a blue square", "a green cross", "a red circle"]


def test_every_batch_has_its_own_plan_however_far_ahead_it_is_asked_for(make_config: Make) -> None:
    config = make_config(*SIZES, "samplers.max_staleness=1")
    plans = [Plan((batch, batch + 1), noisy_steps=(batch, batch + 2)) for batch in range(config.iterations)]
    rollouts = FakeRollouts(config, 0)
    source = Sampled(config, rollouts, 0, plans)  # type: ignore[arg-type]
    for version, plan in enumerate(plans):
        asked = {(r.request.stored_steps, r.request.noisy_steps) for r in source.batch(version)}
        assert asked == {(plan.stored_steps, plan.noisy_steps)}
        rollouts.version += 1


@pytest.mark.parametrize("plan", [Plan((0, 1), share_init_noise=True), Plan((0, 1, 2, 3, 4))])
def test_requests_carry_the_seed_and_what_the_learner_wants(make_config: Make, plan: Plan) -> None:
    (first, *_), _ = run(make_config(*SIZES, "seed=77"), plan=plan)
    assert {r.request.seed for r in first} == {77}
    assert {r.request.share_init_noise for r in first} == {plan.share_init_noise}
    assert {r.request.stored_steps for r in first} == {plan.stored_steps}
