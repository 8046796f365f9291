"""KTO: its loss by hand, the reference point, weights, and who is good or bad."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from actors.policy import Policy
from learner.batch import Batch
from learner.learner import Learner, LearnerConfig
from learner.objectives.kto import KTO, KTOConfig, kto_loss
from learner.objectives.objective import Part
from tests.support.bright import bright_and_dark

GOOD_AND_BAD = torch.tensor([True, False])


def gains(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(("beta", "loss"), [(1000.0, 0.4501660027), (5000.0, 0.2689414214)])
def test_the_loss_of_a_good_and_a_bad_picture(beta: float, loss: float) -> None:
    """F19: errors .1000 and .1010 where the reference has .1002 and .1008; gains cancel, so the point is 0."""
    found = gains(0.1002 - 0.1000, 0.1008 - 0.1010)
    value, metrics = kto_loss(found, GOOD_AND_BAD, KTOConfig(beta=beta))
    assert float(value.detach()) == pytest.approx(loss, abs=1e-8)
    assert metrics["gain/point"] == pytest.approx(0, abs=1e-12)
    assert metrics["gain/accuracy"] == 1
    value.backward()
    assert found.grad[0] < 0 < found.grad[1]  # type: ignore[index]


def test_the_point_is_the_mean_gain_never_below_zero_and_a_constant() -> None:
    config = KTOConfig(beta=100.0)
    found = gains(0.03, 0.01)
    value, metrics = kto_loss(found, GOOD_AND_BAD, config)
    assert metrics["gain/point"] == pytest.approx(0.02)
    assert float(value.detach()) == pytest.approx(1 - 1 / (1 + math.exp(-1)))
    value.backward()
    slope = 100 / 2 * (1 / (1 + math.exp(-1))) * (1 - 1 / (1 + math.exp(-1)))
    assert found.grad.tolist() == pytest.approx([-slope, slope])  # type: ignore[union-attr]
    assert kto_loss(gains(-0.03, -0.01), GOOD_AND_BAD, config)[1]["gain/point"] == 0


def test_pictures_far_from_the_point_no_longer_count() -> None:
    found = gains(1.0, -1.0, 0.0, 0.0)
    value, _ = kto_loss(found, torch.tensor([True, False, False, True]), KTOConfig(beta=100.0))
    value.backward()
    assert found.grad[:2].abs().max() < 1e-20  # type: ignore[index]
    assert found.grad[2:].abs().min() > 1  # type: ignore[index]


def test_weights_and_kinds_of_which_there_are_none() -> None:
    config = KTOConfig(beta=100.0, desirable_weight=1.6, undesirable_weight=0.4)
    value, metrics = kto_loss(gains(0.0, 0.0), GOOD_AND_BAD, config)
    assert float(value.detach()) == pytest.approx(0.5)
    assert metrics["gain/accuracy"] == 0.5  # at the reference nobody is told apart
    value, metrics = kto_loss(gains(0.0, 0.0), torch.tensor([True, True]), config)
    assert float(value.detach()) == pytest.approx(0.8)
    assert "gain/undesirable" not in metrics


def made(policy: Policy, **settings: float) -> KTO:
    objective = KTOConfig.model_validate({"prompt_dropout": 0.0, "states": 2, "beta": 100.0, **settings}).build()
    objective.attach(policy, None)
    return objective


def test_rewards_near_the_threshold_are_neither(
    policy: Policy, draw: Callable[..., Batch], nudge: Callable[[Policy], None]
) -> None:
    nudge(policy)
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.5001, torch.nan, 0.6])
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape), rewards=rewards)
    objective = made(policy, threshold=0.5)
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    before = policy.evaluations
    found = objective.backward(policy, batch, part, micro_batch=99)
    assert (found["samples/desirable"], found["samples/undesirable"]) == (2, 1)
    assert policy.evaluations - before == 3 * 2 * 2  # of policy and pretrained model, at two states
    mean = (2 * found["gain/desirable"] + found["gain/undesirable"]) / 3
    assert found["gain/point"] == pytest.approx(max(0.0, mean), abs=1e-6)
    nobody = objective.backward(policy, replace(batch, rewards=torch.full((6,), 0.5)), part, micro_batch=99)
    assert nobody == {"samples/desirable": 0, "samples/undesirable": 0}


def test_it_learns_what_is_good_without_pairs(policy: Policy, draw: Callable[..., Batch]) -> None:
    """At states and noises that it has not seen, of pictures that share no group."""
    batch = replace(bright_and_dark(policy, draw(policy)), groups=torch.arange(6))
    objective = made(policy, states=4)
    learner = Learner(LearnerConfig(lr=3e-2, micro_batch=64, weight_decay=0), policy, objective)
    for _ in range(8):
        learner.step(batch)
    found = objective.backward(policy, batch, Part(torch.arange(6), torch.tensor([[250, 450, 650, 850]] * 6), 7), 64)
    assert found["gain/desirable"] > found["gain/undesirable"] + 1e-2
    assert found["gain/accuracy"] > 0.65
    assert found["loss"] < 0.4
