"""MaPO: its loss by hand, what it is of small errors, and that it asks no reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from actors.policy import Policy
from learner.batch import Batch
from learner.learner import Learner, LearnerConfig
from learner.objectives.mapo import MaPOConfig, mapo_loss
from learner.objectives.objective import Part
from tests.support.bright import bright_and_dark


def test_the_loss_of_a_pair() -> None:
    """F19."""
    winner, loser = (torch.tensor([error], dtype=torch.float64) for error in (0.1000, 0.1010))
    value, margin = mapo_loss(winner, loser, MaPOConfig())
    assert 1000 * float(margin) == pytest.approx(0.2458128524, abs=1e-8)
    assert float(value) == pytest.approx(0.1577774809, abs=1e-9)


def test_of_small_errors_the_margin_is_their_difference() -> None:
    winner, loser = (torch.tensor([error], dtype=torch.float64) for error in (1.0e-4, 1.1e-3))
    assert float(mapo_loss(winner, loser, MaPOConfig())[1]) == pytest.approx(1e-3 / 4, rel=1e-3)
    assert float(mapo_loss(loser, winner, MaPOConfig())[1]) < 0


def test_the_winner_is_fitted_and_the_margin_pulls_both_apart() -> None:
    errors = torch.tensor([0.1, 0.1], dtype=torch.float64, requires_grad=True)
    mapo_loss(errors[:1], errors[1:], MaPOConfig())[0].sum().backward()
    winner, loser = errors.grad.tolist()  # type: ignore[union-attr]
    assert loser == pytest.approx(1 - winner)  # of which 1 is the fit's
    assert loser == pytest.approx(-0.1 * 0.5 * 1000 * 0.25, rel=0.05)


def test_through_the_network_it_is_the_mean_over_pairs(
    policy: Policy, draw: Callable[..., Batch], nudge: Callable[[Policy], None]
) -> None:
    """And it evaluates the policy alone."""
    nudge(policy)
    rewards = torch.tensor([1.0, 0.0, torch.nan, 0.5, 0.5, torch.nan])
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape), rewards=rewards)
    objective = MaPOConfig(states=3).build()
    objective.attach(policy, None)
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    before = policy.evaluations
    found = objective.backward(policy, batch, part, micro_batch=4)
    assert policy.evaluations - before == 2 * 3  # of the pair that is not tied
    assert found["pairs"] == 1
    assert found["margin/accuracy"] in (0, 1 / 3, 2 / 3, 1)
    loss = found["error/winner"] - 0.1 * float(F.logsigmoid(torch.tensor(1000 * found["margin/mean"])))
    assert found["loss"] >= loss  # Jensen's inequality
    one = MaPOConfig(states=1).build()
    one.attach(policy, None)
    (part,) = one.parts(batch, torch.Generator().manual_seed(0))
    found = one.backward(policy, batch, part, micro_batch=4)
    value, margin = mapo_loss(*(torch.tensor([found[f"error/{name}"]]) for name in ("winner", "loser")), MaPOConfig())
    assert found["loss"] == pytest.approx(float(value), rel=1e-4)
    assert found["margin/mean"] == pytest.approx(float(margin), rel=1e-3, abs=1e-6)


def test_it_learns_who_is_preferred(policy: Policy, draw: Callable[..., Batch]) -> None:
    """At states and noises that it has not seen the errors come apart as told."""
    batch = bright_and_dark(policy, draw(policy))
    made = MaPOConfig(states=4, pairs="all_pairs", margin_weight=1.0).build()
    learner = Learner(LearnerConfig(lr=3e-2, micro_batch=64, weight_decay=0), policy, made)
    unseen = Part(torch.arange(6), torch.tensor([[250, 450, 650, 850]] * 6), 7)
    before = made.backward(policy, batch, unseen, 64)
    for _ in range(8):
        learner.step(batch)
    after = made.backward(policy, batch, unseen, 64)
    assert after["margin/mean"] > before["margin/mean"] + 1e-3
    assert after["loss"] < 0.8 * before["loss"]
