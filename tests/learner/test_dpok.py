"""DPOK: the clamp on values computed by hand, the value function, and a buffer that a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from actors.policy import Policy
from learner.batch import Batch
from learner.learner import Learner, LearnerConfig, RatioError
from learner.objectives.dpok import DPOK, DPOKConfig, clamped_surrogate
from learner.objectives.objective import Part


def test_the_clamp_of_six_ratios() -> None:
    """T5, beside T4 of PPO's clip: outside of the band there is no gradient in either direction."""
    advantages = torch.tensor([1, -1, 2, -0.5, 1, -1]).double()
    log_ratio = torch.tensor([2e-4, 2e-4, -2e-4, -2e-4, 5e-5, -5e-5]).double().requires_grad_()
    elements, outside = clamped_surrogate(log_ratio, advantages, 1e-4)
    assert 10 * float(elements.mean()) == pytest.approx(-2.499916667, abs=1e-8)
    (10 * elements).sum().backward()
    assert log_ratio.grad.tolist() == pytest.approx([0, 0, 0, 0, -10.0005, 9.9995], abs=1e-6)
    assert outside.tolist() == [1, 1, 1, 1, 0, 0]


def test_the_value_is_fitted_to_the_reward(policy: Policy, draw: Callable[..., Batch]) -> None:
    objective = DPOKConfig.model_validate(
        {"value": {"lr": 1e-2, "width": 16}, "buffer": 1, "transitions": 1, "updates": 1}
    ).build()
    learner, batch = Learner(LearnerConfig(lr=1e-6), policy, objective), draw(policy)
    losses = [learner.step(batch).metrics["loss/value"] for _ in range(30)]
    assert losses[-1] < 0.2 * losses[0]


def test_the_values_optimizer_is_that_of_the_released_code(policy: Policy) -> None:
    """AdamW as torch has it, with a rate of its own, and no clipping; other numbers are a setting."""
    objective = DPOKConfig().build()
    objective.attach(policy, None)
    value = objective.modules["value"]
    usual = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1e-4).defaults
    assert value.optimizer.defaults == usual
    (first, *_) = value.network.parameters()
    first.grad = torch.full_like(first, 1e3)
    value.step("value")
    assert (first.grad == 1e3).all()


def test_the_values_gradient_is_that_of_its_one_step_a_batch(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = draw(policy)

    def norm(updates: int) -> float:
        config = DPOKConfig.model_validate({"value": {"width": 4}, "transitions": 5, "updates": updates})
        learner = Learner(LearnerConfig(ratio_tolerance=1.0), policy, config.build())
        return learner.step(batch).metrics["grad_norm/value"]

    assert norm(3) == pytest.approx(norm(1))


def test_transitions_come_from_the_last_batches(policy: Policy, draw: Callable[..., Batch]) -> None:
    objective = DPOKConfig(buffer=2, value=None, transitions=5).build()
    first, second, third = (draw(policy, iteration=i) for i in range(3))
    dropped = replace(first, rewards=torch.tensor([torch.nan, 1, 2, 3, 4, 5]))
    assert len(objective.begin(policy, dropped, 0).prompts) == 5
    both = objective.begin(policy, second, 1)
    assert both.latents.equal(torch.cat([first.latents[1:], second.latents]))
    assert len(both.groups.unique()) == 4
    latest = objective.begin(policy, third, 2)
    assert latest.latents.equal(torch.cat([second.latents, third.latents]))
    parts = list(objective.parts(latest, torch.Generator().manual_seed(0)))
    seen = [(int(row), int(col)) for part in parts for row, col in zip(part.samples, part.columns, strict=True)]
    assert len(parts) == 5
    assert len(set(seen)) == len(seen) == 25


def test_what_was_drawn_has_ratio_one_whatever_is_in_the_buffer(policy: Policy, draw: Callable[..., Batch]) -> None:
    """The first batch is of an adapter that changes nothing; the second shows whether weights arrived."""
    learner = Learner(LearnerConfig(), policy, DPOKConfig(value=None, transitions=6).build())
    learner.step(draw(policy))
    lost = draw(policy, version=1, iteration=1)
    lost.log_probs[:] += 5
    with pytest.raises(RatioError, match=r"5\.0e\+00"):
        learner.step(lost)


def test_a_checkpoint_has_the_buffer(policy: Policy, draw: Callable[..., Batch], tmp_path: Path) -> None:
    def make() -> tuple[Learner, DPOK]:
        objective = DPOKConfig.model_validate({"value": {"width": 4}, "transitions": 6, "updates": 1}).build()
        return Learner(LearnerConfig(lr=1e-3, ratio_tolerance=1.0), policy, objective), objective

    learner, _ = make()
    start = policy.weights()
    batches = [draw(policy, iteration=i) for i in range(2)]
    learner.step(batches[0])
    learner.save(tmp_path)
    learner.step(batches[1])
    expected = policy.weights()[0].copy()
    policy.load_weights(*start)
    again, other = make()
    again.restore(tmp_path)
    assert other.state_dict()["buffer"][0]["latents"].equal(batches[0].latents)
    again.step(batches[1])
    assert policy.weights()[0].tolist() == expected.tolist()


@pytest.mark.parametrize("divergence", ["prediction", "exact"])
def test_the_divergence_holds_the_policy_back(
    policy: Policy, draw: Callable[..., Batch], nudge: Callable[..., None], divergence: str
) -> None:
    """A small step down the gradient that the divergence alone has, of a policy that has moved."""
    nudge(policy)
    batch, part = draw(policy), Part(torch.arange(6), torch.zeros(6, 1).long())

    def gradient(weight: float) -> tuple[list[Tensor], float]:
        policy.network.zero_grad()
        objective = DPOKConfig(value=None, kl_weight=weight, divergence=divergence).build()
        metrics = objective.backward(policy, batch, part, micro_batch=4)
        found = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in policy.parameters]
        return found, metrics["kl/pretrained"]

    (with_it, before), (without, _) = gradient(10.0), gradient(1e-9)
    away = [a - b for a, b in zip(with_it, without, strict=True)]
    size = sum(float(g.square().sum()) for g in away)
    assert size > 0
    with torch.no_grad():
        for parameter, along in zip(policy.parameters, away, strict=True):
            parameter -= 1e-2 * along / size**0.5
    assert gradient(10.0)[1] < before
