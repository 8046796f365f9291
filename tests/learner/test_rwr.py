"""Reward-weighted regression: its weights by hand, and what it converges to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
import torch

from actors.policy import Policy
from learner.batch import Batch
from learner.forward_process import noised, output_error, velocity_error
from learner.objectives.rwr import RWRConfig, sample_weights


def test_the_softmax_of_a_group() -> None:
    """F15."""
    found = sample_weights(torch.tensor([1.0, 2, 3, 6]), torch.zeros(4).long(), RWRConfig(temperature=1.0))
    assert (found / 4).tolist() == pytest.approx([0.0062687869, 0.0170403295, 0.0463204180, 0.9303704657])


@pytest.mark.parametrize("kind", ["softmax", "best"])
@pytest.mark.parametrize("among", ["group", "batch"])
def test_weights_have_a_mean_of_one_over_those_that_were_judged(kind: str, among: str) -> None:
    config = RWRConfig.model_validate({"weights": kind, "among": among} | ({"best": 0.5} if kind == "best" else {}))
    rewards, groups = torch.tensor([1.0, 2, torch.nan, 9, 8, 8.5]), torch.tensor([0, 0, 0, 1, 1, 1])
    found = sample_weights(rewards, groups, config)
    assert found[2] == 0
    for members in ([0, 1], [3, 4, 5]) if among == "group" else ([0, 1, 3, 4, 5],):
        assert float(found[members].mean()) == pytest.approx(1)
    assert found[3] > found[4] or kind == "best"
    assert found[3] > 0


def test_the_best_alone_are_taken() -> None:
    found = sample_weights(torch.tensor([3.0, 1, 2, 5]), torch.zeros(4).long(), RWRConfig(weights="best", best=0.5))
    assert found.tolist() == [2, 0, 0, 2]


def test_who_are_equally_good_share_the_last_places() -> None:
    config = RWRConfig(weights="best", best=0.5)
    assert sample_weights(torch.ones(4), torch.zeros(4).long(), config).tolist() == [1, 1, 1, 1]
    found = sample_weights(torch.tensor([3.0, 1, 1, 0]), torch.zeros(4).long(), config)
    assert found.tolist() == [2, 1, 1, 0]


def test_the_minimiser_is_the_weighted_mean_held_by_the_distance() -> None:
    """F15: two targets with weights e^(tau r), and the pretrained model at .2."""
    weights = torch.tensor([0.5, -0.5]).exp().double()
    for alpha, expected in ((1.0, 0.3389201473), (0.0, 0.4621171573)):
        u = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([u], max_iter=50)

        def closure(alpha: float = alpha, u: torch.Tensor = u, optimizer: torch.optim.Optimizer = optimizer) -> float:
            optimizer.zero_grad()
            value = (weights * (u - torch.tensor([1.0, -1])) ** 2).mean() + alpha * ((u - 0.2) ** 2).mean()
            value.backward()
            return float(value.detach())

        optimizer.step(closure)
        assert float(u) == pytest.approx(expected, abs=1e-6)


def test_the_mean_is_over_those_without_a_weight_too(policy: Policy, draw: Callable[..., Batch]) -> None:
    rewards = torch.tensor([0.3, -1.0, 2.0, 0.1, torch.nan, -0.4])
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape), rewards=rewards)
    objective = RWRConfig(weights="best", best=0.4, updates=1, states=5).build()
    objective.attach(policy, None)
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    assert sorted(part.samples.tolist()) == [0, 2]
    found = objective.backward(policy, batch, part, micro_batch=4)
    rows, steps = torch.arange(6).repeat_interleave(5), torch.arange(5).repeat(6)
    with torch.no_grad():
        state = noised(policy, batch, rows, steps)
        errors = output_error(policy.transitions, state.image(policy, False), state.clean, steps).view(6, 5)
    weights = sample_weights(rewards, batch.groups, objective.config)
    judged = rewards.isfinite()
    assert found["loss"] == pytest.approx(float((weights[:, None] * errors)[judged].mean()), rel=1e-4)
    assert found["samples/effective"] == pytest.approx(2)


@pytest.mark.parametrize("kind", ["output", "velocity"])
def test_the_distance_is_an_error_of_the_same_kind(
    policy: Policy, draw: Callable[..., Batch], nudge: Callable[..., None], kind: Literal["output", "velocity"]
) -> None:
    nudge(policy)
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape))
    objective = RWRConfig(distance_weight=1.0, updates=1, states=5, error=kind).build()
    objective.attach(policy, None)
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    found = objective.backward(policy, batch, part, micro_batch=8)
    rows, steps = torch.arange(6).repeat_interleave(5), torch.arange(5).repeat(6)
    error = output_error if kind == "output" else velocity_error
    with torch.no_grad():
        state = noised(policy, batch, rows, steps)
        away = error(policy.transitions, state.image(policy, False), state.image_of(None, policy, False), steps)
    assert found["distance/pretrained"] == pytest.approx(float(away.mean()), rel=1e-4)
