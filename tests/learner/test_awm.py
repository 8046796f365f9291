"""Advantage-weighted matching: the likelihood's stand-in by hand, and the policy gradient that it replaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from actors.policy import Policy
from learner.batch import Batch
from learner.learner import Learner, LearnerConfig
from learner.objectives.awm import TRAILING, AWMConfig, stand_in


def test_the_stand_in_and_its_slope() -> None:
    """F9: an error of .1 in the velocity at time .5, with an advantage of .5."""
    for power, value, slope in ((0.25, -0.6261309783, 1.5811388), (1.0, -0.005, 0.1)):
        velocity = torch.tensor([0.1], dtype=torch.float64, requires_grad=True)
        found = stand_in(velocity**2, torch.tensor([0.5]).double(), power)
        (-0.5 * found).sum().backward()
        assert found.item() == pytest.approx(value, abs=1e-6)
        assert velocity.grad.item() == pytest.approx(slope * (1 if power < 1 else 0.5), rel=1e-5)


def test_matching_the_drawn_state_is_the_policy_gradient() -> None:
    """F11: log p(x'|x) of the ancestral step is a constant less its weight times the error of the noise."""
    a, s, a1, s1 = (torch.tensor(v).double().sqrt() for v in (0.5, 0.5, 0.8, 0.2))
    x, x_next, eps = 1.0, 0.7, 0.5
    q2 = s1**2 * (1 - (a * s1 / (a1 * s)) ** 2)
    c = (s1**2 - q2).sqrt() - a1 * s / a
    target = s * (x - a / a1 * x_next) / (s**2 - (a / a1) ** 2 * s1**2)
    assert float(target) == pytest.approx(0.8421196937)
    weight = c**2 / (2 * q2)
    assert float(weight) == pytest.approx(1.5)
    mean = a1 / a * x + c * eps
    assert float((x_next - mean) ** 2 / (2 * q2)) == pytest.approx(float(weight * (target - eps) ** 2))
    assert float(weight * (target - eps) ** 2) == pytest.approx(0.1755688272)


def test_an_adapter_trails_and_only_later_parts_are_off_policy(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape))
    learner = Learner(LearnerConfig(lr=1e-2), policy, AWMConfig(states=2, updates=2, clip_range=1e-6).build())
    first = learner.step(batch).metrics
    assert first["distance/trailing"] > 0  # the second part finds that the first has moved the policy
    assert 0 < first["clip/share"] <= 0.5  # of the first part no ratio is clipped, because each is 1
    assert policy.weights(TRAILING)[0].tolist() != policy.weights()[0].tolist()


def test_no_advantage_is_no_gradient(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape), rewards=torch.zeros(6))
    before = policy.weights()[0].copy()
    Learner(LearnerConfig(weight_decay=0), policy, AWMConfig(states=2).build()).step(batch)
    assert policy.weights()[0].tolist() == before.tolist()
