"""DGPO: the preference of a group by hand, what cancels in it, and who is held by the clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from actors.policy import Policy
from learner.batch import Batch
from learner.objectives.dgpo import OLD, DGPOConfig, dgpo_loss
from learner.objectives.objective import Part

ERRORS = torch.tensor([0.10, 0.12, 0.11, 0.09], dtype=torch.float64)
REWARDS = torch.tensor([1.0, 2, 3, 6], dtype=torch.float64)
ADVANTAGES = (REWARDS - REWARDS.mean()) / REWARDS.std(correction=0)
GROUP = torch.zeros(4, dtype=torch.int64)


def loss(errors: Tensor, old: Tensor | None = None, **settings: float) -> tuple[Tensor, dict[str, float]]:
    config = DGPOConfig.model_validate({"clip_range": 1.0, **settings})
    before, old = torch.full((4, 1), 0.11).double(), errors.detach() if old is None else old
    return dgpo_loss(errors[:, None], before, old.view(4, 1), ADVANTAGES, GROUP, config)


def test_the_loss_of_one_group_and_its_gradient() -> None:
    """F10."""
    errors = ERRORS.clone().requires_grad_()
    value, metrics = loss(errors)
    assert 100 * metrics["margin/mean"] == pytest.approx(0.6681531048)
    assert 100 * float(value) == pytest.approx(0.4138660698)
    value.backward()
    expected = [-0.0905776451, -0.0452888225, 0, 0.1358664676]
    assert errors.grad.tolist() == pytest.approx(expected, abs=1e-8)


def test_what_is_common_to_a_group_cancels() -> None:
    assert float(loss(ERRORS + 0.3)[0]) == pytest.approx(float(loss(ERRORS)[0]))
    at_reference = torch.full((4,), 0.11).double().requires_grad_()
    value, _ = loss(at_reference)
    value.backward()
    torch.testing.assert_close(at_reference.grad, 0.5 * ADVANTAGES / 4)  # the weight is 1/2 there


def test_the_order_of_a_group_does_not_matter() -> None:
    order, errors = torch.tensor([2, 0, 3, 1]), ERRORS.clone().requires_grad_()
    loss(errors)[0].backward()
    mixed = ERRORS[order].clone().requires_grad_()
    before = torch.full((4, 1), 0.11).double()
    config = DGPOConfig(clip_range=1.0)
    dgpo_loss(mixed[:, None], before, mixed.detach()[:, None], ADVANTAGES[order], GROUP, config)[0].backward()
    torch.testing.assert_close(mixed.grad, errors.grad[order])


def test_who_has_left_the_band_on_the_rewarded_side_is_held() -> None:
    errors = ERRORS.clone().requires_grad_()
    # Of the better ones the first is matched better than before, of the worse ones the second is matched worse.
    old = torch.tensor([0.05, 0.12, 0.11, 0.30]).double()
    value, metrics = loss(errors, old, clip_range=0.01)
    value.backward()
    assert [float(g) == 0 for g in errors.grad] == [True, False, True, True]
    assert metrics["clip/share"] == 0.5


def test_the_distance_is_of_what_the_error_is_of(
    policy: Policy, draw: Callable[..., Batch], nudge: Callable[[Policy], None]
) -> None:
    """A network of noise moves by less than the velocity where there is little signal."""
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape))
    nudge(policy)
    policy.snapshot(OLD)
    part, distance = Part(torch.arange(6), torch.tensor([0])), {}
    for error in ("velocity", "output"):
        objective = DGPOConfig.model_validate({"error": error}).build()
        distance[error] = objective.backward(policy, batch, part, 99)["distance/pretrained"]
    chain = policy.transitions
    slope = float((chain.signal[0] + chain.sigma[0]) / chain.signal[0])  # d velocity / d noise
    assert distance["velocity"] == pytest.approx(slope**2 * distance["output"], rel=1e-4)


def test_a_group_of_which_nothing_is_left_is_no_update(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = draw(policy)
    batch = replace(batch, rewards=torch.where(batch.groups == batch.groups[0], torch.nan, batch.rewards))
    objective = DGPOConfig.model_validate({"prompts_per_update": 1}).build()
    objective.attach(policy, None)
    parts = list(objective.parts(batch, torch.Generator().manual_seed(0)))
    assert len(parts) == len(batch.groups.unique()) - 1
    assert [part.number for part in parts] == list(range(len(parts)))
    assert all((batch.groups[part.samples] != batch.groups[0]).all() for part in parts)
