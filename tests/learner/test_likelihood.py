"""Likelihood ratios of stored transitions, and the two-pass gradient."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.policy import Policy
from learner.batch import Batch
from learner.likelihood import REFERENCE_ADAPTER, Likelihoods, Reference, backward
from learner.objectives.objective import Part
from learner.objectives.ppod import PPOD, PPODConfig
from learner.preferences import preference_loss

Nudge = Callable[..., None]
Draw = Callable[..., Batch]
EVERYONE, EVERY_STEP = torch.arange(6), torch.arange(4)


def likelihoods(policy: Policy, batch: Batch, samples: Tensor = EVERYONE, **options: Any) -> Likelihoods:
    """What a loss is given."""
    seen: list[Likelihoods] = []

    def loss(these: Likelihoods) -> tuple[Tensor, dict[str, float]]:
        seen.append(these)
        return these.log_prob.sum(), {}

    backward(policy, batch, samples, options.pop("columns", EVERY_STEP), loss, **{"micro_batch": 96, **options})
    return seen[0]


def gradient(policy: Policy, batch: Batch, config: PPODConfig, micro_batch: int) -> Tensor:
    """Of the objective over a whole batch, as one vector."""
    for parameter in policy.parameters:
        parameter.grad = None
    PPOD(config).backward(policy, batch, Part(EVERYONE, EVERY_STEP), micro_batch)
    return torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None])


@pytest.mark.parametrize("micro_batch", [1, 2, 3])
def test_trajectory_gradient_by_hand(micro_batch: int) -> None:
    """T21: a chain whose three log-ratios are theta^2, theta / 2 and sin theta, at theta = 0.3, with beta 0.7."""
    theta = torch.tensor(0.3, requires_grad=True)

    def predict(x: Tensor, step: Tensor, conditioning: None) -> Tensor:
        ratio = torch.stack([theta**2, theta / 2, theta.sin()])[step]
        return (2 * (1 - ratio)).sqrt().view(-1, 1, 1, 1)  # its log-density of 0 is the ratio, plus a constant

    policy: Any = SimpleNamespace(
        device="cpu",
        encode=lambda prompts: None,
        predict=predict,
        transitions=SimpleNamespace(
            mean=lambda x, prediction, step: prediction, std_at=lambda step, x: torch.ones(len(x), 1, 1, 1)
        ),
    )
    behaviour = torch.full((1, 3), -1 - 0.5 * math.log(2 * math.pi))
    zeros = torch.zeros(1, 3, 1, 1, 1)
    batch = Batch(zeros, zeros, behaviour, torch.arange(3), ("",), torch.zeros(1), torch.zeros(1), 0)
    backward(
        policy, batch, torch.tensor([0]), torch.arange(3),
        lambda these: (preference_loss(these.log_ratio.sum(), 0.7), {}), micro_batch=micro_batch,
    )  # fmt: skip
    assert theta.grad is not None
    assert theta.grad.item() == pytest.approx(-0.5860922274, abs=1e-6)


@pytest.mark.parametrize("form", ["step", "trajectory"])
@pytest.mark.parametrize("kl_weight", [0.0, 2.0])
@pytest.mark.parametrize(("reference", "round_length"), [("round", 1), ("round", 2), ("pretrained", 1)])
def test_micro_batches_give_the_same_gradient(
    policy: Policy, nudge: Nudge, draw: Draw, form: str, kl_weight: float, reference: str, round_length: int
) -> None:
    """T21 on a network: one graph over all transitions, against two passes."""
    nudge(policy)
    batch = draw(policy)
    nudge(policy, 0.02)
    policy.snapshot(REFERENCE_ADAPTER)
    nudge(policy, 0.02)
    config = PPODConfig.model_validate(
        {
            "form": form, "kl_weight": kl_weight, "reference": reference, "round_length": round_length, "clip": "none",
            "steps_per_update": None, "beta": 30,
        }
    )  # fmt: skip
    whole = gradient(policy, batch, config, 24)
    assert whole.norm() > 1e-2
    pieces = gradient(policy, batch, config, 7)
    torch.testing.assert_close(pieces, whole, rtol=1e-3, atol=1e-3 * float(whole.norm()))


@pytest.mark.parametrize("micro_batch", [5, 24])
@pytest.mark.parametrize("reference", ["behaviour", "pretrained", "snapshot"])
def test_the_gradient_is_the_slope_of_the_loss(
    policy: Policy, nudge: Nudge, draw: Draw, micro_batch: int, reference: Reference
) -> None:
    """Along the gradient itself, for a loss that mixes ratios and KL and couples all transitions."""
    nudge(policy)
    batch = draw(policy)
    policy.snapshot(REFERENCE_ADAPTER)
    nudge(policy, 0.1)

    def value() -> float:
        found: list[Tensor] = []

        def loss(these: Likelihoods) -> tuple[Tensor, dict[str, float]]:
            found.append(10 * these.log_ratio.sum() ** 2 - these.log_ratio.mean() + 50 * these.kl.mean())
            return found[0], {}

        backward(policy, batch, EVERYONE, EVERY_STEP, loss, micro_batch=micro_batch, reference=reference, with_kl=True)
        return float(found[0].detach())

    value()
    slopes = [parameter.grad.clone() for parameter in policy.parameters if parameter.grad is not None]
    norm = torch.cat([slope.flatten() for slope in slopes]).norm().item()
    ends = []
    for distance in (1e-2, -2e-2):
        with torch.no_grad():
            for parameter, slope in zip(policy.parameters, slopes, strict=True):
                parameter += distance * slope / norm
        ends.append(value())
    assert (ends[0] - ends[1]) / 2e-2 == pytest.approx(norm, rel=2e-2)


def test_a_fresh_adapter_has_ratio_one_and_no_divergence(policy: Policy, draw: Draw) -> None:
    """Structural, exactly: adapters off and a zero adapter are the same numbers."""
    these = likelihoods(policy, draw(policy), reference="pretrained", with_kl=True)
    assert these.log_ratio.abs().max() == 0
    assert these.kl.abs().max() == 0


def test_on_policy_ratios_are_one(policy: Policy, nudge: Nudge, draw: Draw) -> None:
    nudge(policy)
    these = likelihoods(policy, draw(policy))
    assert these.log_ratio.abs().max() < 1e-5
    assert torch.equal(these.anchor, torch.zeros_like(these.anchor))


def test_pretrained_log_probs_survive_updates_bit_for_bit(policy: Policy, nudge: Nudge, draw: Draw) -> None:
    """Structural."""
    batch = draw(policy)
    before = likelihoods(policy, batch, reference="pretrained")
    nudge(policy)
    after = likelihoods(policy, batch, reference="pretrained")
    assert torch.equal(after.reference, before.reference)
    assert not torch.equal(after.log_prob, before.log_prob)


def test_the_snapshot_is_a_reference_of_its_own(policy: Policy, nudge: Nudge, draw: Draw) -> None:
    batch = draw(policy)
    nudge(policy)
    policy.snapshot(REFERENCE_ADAPTER)
    assert likelihoods(policy, batch, reference="snapshot").log_ratio.abs().max() == 0
    nudge(policy)
    these = likelihoods(policy, batch, reference="snapshot")
    assert these.log_ratio.abs().max() > 1e-4
    assert these.anchor.abs().max() > 1e-4  # the behaviour was the pretrained policy


def test_kl_is_the_weighted_distance_of_the_predictions(policy: Policy, nudge: Nudge, draw: Draw) -> None:
    """KL = c^2 / (2 sigma^2) |e_theta - e_ref|^2 of the guided predictions."""
    batch, chain = draw(policy), policy.transitions
    nudge(policy)
    found = likelihoods(policy, batch, with_kl=True).kl
    for column, step in enumerate(batch.steps):
        inputs = (batch.latents[:, column], step.repeat(6), policy.encode(batch.prompts))
        with torch.no_grad():
            ours = policy.predict(*inputs)
        with policy.using(None):
            theirs = policy.predict(*inputs)
        weight = chain.output_weight[step] ** 2 / (2 * chain.std[step] ** 2)
        expected = weight * (ours - theirs).square().mean(dim=(1, 2, 3))
        torch.testing.assert_close(found[:, column], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("micro_batch", [2, 96])
def test_a_part_is_those_samples_at_those_steps(policy: Policy, nudge: Nudge, draw: Draw, micro_batch: int) -> None:
    batch = draw(policy)
    nudge(policy)
    samples, columns = torch.tensor([4, 0, 5]), torch.tensor([3, 1])
    full = likelihoods(policy, batch, reference="pretrained", with_kl=True)
    part = likelihoods(
        policy, batch, samples, columns=columns, micro_batch=micro_batch, reference="pretrained", with_kl=True
    )
    for field in ("log_prob", "behaviour", "reference", "kl"):
        chosen = getattr(full, field)[samples][:, columns]
        torch.testing.assert_close(getattr(part, field), chosen, atol=1e-5, rtol=1e-4)


def test_gradients_are_added(policy: Policy, draw: Draw) -> None:
    batch = draw(policy)
    likelihoods(policy, batch)
    once = [parameter.grad.clone() for parameter in policy.parameters if parameter.grad is not None]
    likelihoods(policy, batch)
    for parameter, gradient_once in zip(policy.parameters, once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient_once)


def test_the_largest_ratio_is_reported(policy: Policy, draw: Draw) -> None:
    batch = draw(policy)
    batch.log_probs[2, 1] += 0.25
    for micro_batch in (5, 96):
        metrics = backward(
            policy, batch, EVERYONE, EVERY_STEP, lambda these: (these.log_prob.sum(), {"own": 3.0}),
            micro_batch=micro_batch,
        )  # fmt: skip
        assert metrics == {"own": 3.0, "ratio/max_log": pytest.approx(0.25, abs=1e-4)}
