"""GRPO: who is trained on, where the window is, and what ends a transition's gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import exp
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.noise_levels import NoiseLevels
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from actors.transitions import make_transitions
from learner.batch import Batch, collate
from learner.learner import Learner, LearnerConfig
from learner.likelihood import transition_of
from learner.objectives.grpo import GRPOConfig, divergence_limited, informative, step_length
from learner.objectives.objective import Plan
from learner.standardise import make_standardiser


def test_advantages_of_two_groups_by_either_deviation() -> None:
    """T7, whose deviations have 1e-4 and 1e-8 added where ours have 1e-6."""
    scores, groups = np.array([1.0, 2, 3, 6, 0, 0, 0, 4]), np.repeat([0, 1], 4)
    found = make_standardiser("group_mean", 1, 1).apply(scores, groups, ["a"] * 8)
    expected = [-0.97009544, -0.48504772, 0, 1.45514317, *[-0.48504772] * 3, 1.45514317]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    of_group = make_standardiser("group", 1, 1).apply(scores, groups, ["a"] * 8)
    assert of_group.tolist() == pytest.approx(
        [-1.06898783, -0.53449391, 0, 1.60348174, *[-0.57731694] * 3, 1.73195081], abs=1e-4
    )


def test_equal_groups_are_left_out_and_the_best_and_worst_kept() -> None:
    """F18."""
    rewards = torch.tensor([-1.2, 0.3, 0, 1.5, -0.4, 0.9, -0.1, -1])
    rows, flat = informative(rewards, torch.zeros(8).long(), 4)
    assert (rows.tolist(), flat) == ([0, 3, 5, 7], 0)
    assert float(rewards[rows].mean()) == pytest.approx(0.05)
    rewards, groups = torch.tensor([0.0, 0, 1, 2, torch.nan, 3, 7]), torch.tensor([0, 0, 1, 1, 1, 2, 3])
    rows, flat = informative(rewards, groups, None)
    assert (rows.tolist(), flat) == ([2, 3], 0.75)
    assert informative(torch.zeros(2), torch.zeros(2).long(), None)[0].shape == (0,)


def test_a_batch_of_which_nobody_learns_says_so(policy: Policy, draw: Callable[..., Batch]) -> None:
    metrics = (
        Learner(LearnerConfig(), policy, GRPOConfig().build())
        .step(replace(draw(policy), rewards=torch.ones(6)))
        .metrics
    )
    assert (metrics["groups/flat"], metrics["updates"]) == (1, 0)


@pytest.mark.parametrize(
    ("settings", "versions", "expected"),
    [
        ({"window": 2}, (0, 24, 25, 75, 100), ((0, 1), (0, 1), (1, 2), (3, 4), (0, 1))),
        ({"window": 2, "window_moves": "stays"}, (0, 400), ((0, 1), (0, 1))),
        ({"window": 5}, (0, 400), ((0, 1, 2, 3, 4),) * 2),
        ({"window": 1, "step_fraction": 0.4, "window_every": 1}, (0, 1, 2), ((0,), (1,), (0,))),
    ],
)
def test_the_window_moves_and_comes_back(
    policy: Policy, settings: dict[str, Any], versions: tuple[int, ...], expected: tuple[tuple[int, ...], ...]
) -> None:
    objective = GRPOConfig.model_validate(settings).build()
    for version, steps in zip(versions, expected, strict=True):
        plan = objective.plan(policy.transitions, version)
        assert plan == Plan(steps, noisy_steps=(steps[0], steps[-1] + 1))


def test_a_random_window_is_everywhere_and_the_same_each_time(policy: Policy) -> None:
    objective = GRPOConfig(window=2, window_moves="random", window_every=1).build()
    plans = [objective.plan(policy.transitions, version) for version in range(60)]
    assert {plan.stored_steps for plan in plans} == {(0, 1), (1, 2), (2, 3), (3, 4)}
    assert plans == [objective.plan(policy.transitions, version) for version in range(60)]


def test_random_windows_are_those_of_the_runs_seed(policy: Policy) -> None:
    def windows(seed: int) -> list[tuple[int, ...]]:
        objective = GRPOConfig(window=1, window_moves="random", window_every=3).build()
        Learner(LearnerConfig(), policy, objective, seed)
        return [objective.plan(policy.transitions, version).stored_steps for version in range(60)]

    assert windows(1) == windows(1)
    assert windows(1) != windows(0)
    assert windows(1)[::3] == windows(1)[2::3]  # for three iterations each


def windowed(policy: Policy, noisy: tuple[int, int]) -> Batch:
    request = Request(
        0, 0, ("a red circle",) * 4, (0,) * 4, (0, 1, 2, 3), tuple(range(*noisy)), share_init_noise=True,
        noisy_steps=noisy,
    )  # fmt: skip
    return collate([rollout(policy, request)[1]], np.array([1, -1, 2, 0], np.float32))


def test_before_a_window_samples_of_one_noise_are_one(policy: Policy) -> None:
    batch = windowed(policy, (2, 4))
    assert batch.latents[0, 0].equal(batch.latents[3, 0])
    assert not batch.next_latents[0, 0].equal(batch.next_latents[3, 0])
    learner = Learner(LearnerConfig(), policy, GRPOConfig().build())
    learner.step(batch)  # has ratio one, or it would stop


def test_the_behaviours_mean_comes_out_of_the_keys(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = draw(policy)
    step = transition_of(policy, batch, torch.tensor([0, 5, 2]), torch.tensor([0, 3, 1]), pretrained=True)
    torch.testing.assert_close(step.behaviour_mean, step.mean, rtol=1e-4, atol=1e-5)
    assert step.pretrained_mean is not None
    torch.testing.assert_close(step.pretrained_mean, step.mean, rtol=1e-4, atol=1e-5)


def test_guard_takes_the_bias_out_of_the_ratio() -> None:
    """F12: four dimensions, q .2."""
    moved, z, q = torch.tensor([0.02, -0.01, 0.03, 0]).double(), torch.tensor([0.5, -1, 0.25, 2]).double(), 0.2
    plain = ((q * z) ** 2 - (q * z - moved) ** 2).mean() / (2 * q**2)
    bias = (moved**2).mean() / (2 * q**2)
    assert (float(plain), float(bias)) == (pytest.approx(0.03), pytest.approx(0.004375))
    assert float(q * (plain + bias)) == pytest.approx(float((moved * z).mean())) == pytest.approx(0.006875)
    assert exp(0.006875) == pytest.approx(1.0068986871)


def test_a_step_is_as_long_as_it_passes_an_error_of_the_network_on(policy: Policy) -> None:
    steps = torch.arange(5)
    of_noise = policy.transitions
    assert step_length(of_noise, steps).equal(of_noise.output_weight.abs())
    sigma = torch.tensor([0.8, 0.7, 0.4]).double()
    of_velocity = make_transitions(NoiseLevels(1000 * sigma[:-1].float(), 1 - sigma, sigma, "velocity"), "flow_sde")
    assert step_length(of_velocity, steps[:2]).tolist() == pytest.approx([0.1, 0.3])


@pytest.mark.parametrize(
    ("ratio", "advantage", "divergence", "ends"),
    [
        (1.001, 1, 5e-5, True),
        (0.999, -1, 5e-5, True),
        (1.001, -1, 5e-5, False),
        (0.999, 1, 5e-5, False),
        (1.001, 1, 3e-6, False),
    ],
)
def test_a_gradient_ends_where_the_divergence_is_large_and_would_grow(
    ratio: float, advantage: float, divergence: float, ends: bool
) -> None:
    """F13."""
    log_ratio = torch.tensor([ratio]).log().requires_grad_()
    values, ended = divergence_limited(log_ratio, torch.tensor([advantage]), torch.tensor([divergence]), 1e-5)
    values.sum().backward()
    assert bool(ended) is ends
    assert (float(log_ratio.grad) == 0) is ends


@pytest.mark.parametrize("settings", [{}, {"ratio": "guard"}, {"limit": "divergence"}, {"keep": 2}])
def test_a_step_makes_the_better_sample_likelier(
    policy: Policy, draw: Callable[..., Batch], settings: dict[str, Any]
) -> None:
    batch = replace(draw(policy), rewards=torch.tensor([2.0, -1, -1, 2, -1, torch.nan]))
    objective = GRPOConfig.model_validate({"kl_weight": 0.0, **settings}).build()
    learner = Learner(LearnerConfig(lr=1e-3), policy, objective)
    metrics = learner.step(batch).metrics
    assert metrics["groups/flat"] == 0

    def log_ratio() -> Tensor:
        with torch.no_grad():
            found = transition_of(policy, batch, torch.arange(6), torch.zeros(6).long())
        return found.log_prob - batch.log_probs[:, 0]

    assert log_ratio()[[0, 3]].sum() > log_ratio()[[1, 2, 4]].sum()
