"""DDPO: the clipped surrogate on values computed by hand, both gradients on policy, and what is left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from actors.policy import Policy
from learner.batch import Batch
from learner.objectives.ddpo import DDPOConfig
from learner.policy_gradient import clipped_surrogate
from learner.standardise import make_standardiser


def test_the_surrogate_of_six_ratios() -> None:
    """T4."""
    advantages = torch.tensor([1, -1, 2, -0.5, 1, -1]).double()
    log_ratio = torch.tensor([2e-4, 2e-4, -2e-4, -2e-4, 5e-5, -5e-5]).double().requires_grad_()
    elements, clipped = clipped_surrogate(log_ratio, advantages, 1e-4)
    assert elements.tolist() == pytest.approx([-1.0001, 1.00020002, -1.99960004, 0.49995, -1.00005, 0.99995], abs=1e-8)
    assert float(elements.mean()) == pytest.approx(-0.24994167, abs=1e-8)
    elements.sum().backward()
    assert log_ratio.grad.tolist() == pytest.approx([0, 1.0002, -1.9996, 0, -1.00005, 0.99995], abs=1e-4)
    assert clipped.tolist() == [1, 0, 0, 1, 0, 0]


def test_the_tracker_also_knows_a_prompt_that_is_new() -> None:
    """T6: until a prompt has two scores of its own it is standardised by the batch."""
    tracker = make_standardiser("prompt", buffer=4, min_count=2)
    first = tracker.apply(np.array([1.0, 3, 10]), np.array([0, 0, 1]), ["a", "a", "b"])
    assert first.tolist() == pytest.approx([-0.999999, 0.999999, 1.38218912], abs=1e-6)
    second = tracker.apply(np.array([5.0, 20]), np.array([0, 1]), ["a", "b"])
    assert second.tolist() == pytest.approx([1.22474412, 0.9999998], abs=1e-6)


def gradient(policy: Policy, batch: Batch, micro_batch: int = 64, **settings: object) -> Tensor:
    objective = DDPOConfig.model_validate({"updates": 1, **settings}).build()
    policy.network.zero_grad()
    part = next(objective.parts(batch, torch.Generator().manual_seed(0)))
    objective.backward(policy, batch, part, micro_batch)
    return torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None])


def test_on_policy_both_gradients_are_the_same(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = draw(policy)
    found = gradient(policy, batch)
    assert found.abs().max() > 0
    torch.testing.assert_close(found, gradient(policy, batch, gradient="score"), rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(found, gradient(policy, batch, micro_batch=5), rtol=1e-3, atol=1e-7)


def test_advantages_are_clipped_and_dropped_samples_left_out(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = draw(policy)
    wild = replace(batch, rewards=torch.tensor([100.0, -100, torch.nan, 0, 0, 0]))
    tame = replace(batch, rewards=torch.tensor([5.0, -5, torch.nan, 0, 0, 0]))
    assert gradient(policy, wild).equal(gradient(policy, tame))
    parts = list(DDPOConfig(updates=2, epochs=2).build().parts(wild, torch.Generator()))
    assert sorted(int(s) for part in parts for s in part.samples) == sorted([0, 1, 3, 4, 5] * 2)
    assert len(parts) == 4


def test_the_score_function_takes_one_step_a_batch() -> None:
    with pytest.raises(ValidationError, match="updates=1"):
        DDPOConfig(gradient="score")
