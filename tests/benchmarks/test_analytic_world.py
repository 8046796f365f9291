"""The analytic world against its closed forms, and what training in it converges to."""

from __future__ import annotations

import pytest
import torch

from benchmarks.analytic_world import (
    GRID,
    MIXTURE,
    AnalyticPolicy,
    AnalyticReward,
    PerStep,
    chain,
    describe,
    draw,
    law,
    tilted,
)
from benchmarks.posteriors import LINEAR_10, QUADRATIC_10, adjoint, nabla, outcome, release, train

WIDTH = float(GRID[1] - GRID[0])


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "mean", "variance"), [(10, 0.49724, 0.20289), (50, 0.49874, 0.30502)])
def test_the_pretrained_chain_samples_its_own_gaussian(steps: int, mean: float, variance: float) -> None:
    policy = AnalyticPolicy(steps)
    found = describe(law(policy, pretrained=True), law(policy, pretrained=True))
    assert found.mean == pytest.approx(mean, abs=2e-5)
    assert found.variance == pytest.approx(variance, abs=2e-5)
    assert found.divergence == pytest.approx(0, abs=1e-9)
    slope, offset, spread = 1.0, 0.0, 0.0  # of x_0 given the state, from the image to the noise
    for factor, shift, noise in reversed(chain(policy)):
        spread += slope**2 * noise
        offset += slope * shift
        slope *= factor
    assert (offset, slope**2 + spread) == pytest.approx((mean, variance), abs=2e-5)


def test_tilts_have_their_closed_forms() -> None:
    prior = law(AnalyticPolicy(10), pretrained=True)
    linear = describe(tilted(prior, AnalyticReward(slope=1.0), 1.5), prior)
    assert (linear.mean, linear.variance) == pytest.approx((0.80157, 0.20289), abs=3e-5)
    quadratic = describe(tilted(prior, AnalyticReward(curvature=1.0, centre=1.5), 4.0), prior)
    assert (quadratic.mean, quadratic.variance) == pytest.approx((0.94646, 0.11200), abs=3e-5)


@pytest.mark.slow
def test_the_mixture_and_its_tilt() -> None:
    prior = law(AnalyticPolicy(50, MIXTURE), pretrained=True)
    found = describe(prior, tilted(prior, AnalyticReward(slope=1.0), 0.5))
    assert (found.mean, found.variance, found.negative) == pytest.approx((0.0, 2.338, 0.5), abs=2e-3)
    assert found.divergence == pytest.approx(0.270, abs=1e-3)
    target = describe(tilted(prior, AnalyticReward(slope=1.0), 0.5), prior)
    assert (target.mean, target.variance, 1 - target.negative) == pytest.approx((1.0025, 1.459, 0.8153), abs=1e-3)


def test_samples_follow_the_law() -> None:
    policy = AnalyticPolicy(10, dimensions=2000)
    with torch.no_grad():
        policy.drift.table[:, 1] = 0.7
        policy.drift.table[:, 0] = -0.3
    images = draw(policy, AnalyticReward(slope=1.0), 100, 1, seed=0, version=0).next_latents[:, -1]
    expected = describe(law(policy), law(policy))
    assert float(images.mean()) == pytest.approx(expected.mean, abs=0.005)
    assert float(images.var()) == pytest.approx(expected.variance, abs=0.005)


def test_knots_are_interpolated_and_the_ends_are_flat() -> None:
    function = PerStep(2, knots=11)  # a knot at every integer from -5 to 5
    with torch.no_grad():
        function.table[1] = torch.arange(-5.0, 6.0) ** 2
    x = torch.tensor([[-7.0, -5.0, 0.5, 2.0, 4.25, 9.0]]).view(1, 1, 1, 6)
    expected = torch.tensor([25, 25, 0.5, 4, 16 + 0.25 * 9, 25])
    torch.testing.assert_close(function(x, torch.tensor([1])).flatten(), expected, atol=2e-4, rtol=1e-5)
    assert function(x, torch.tensor([0])).abs().max() == 0
    fine = PerStep(1, knots=41)
    with torch.no_grad():
        fine.table[0] = torch.linspace(-5, 5, 41)
    torch.testing.assert_close(fine(x, torch.tensor([0])), x.clamp(-5, 5), atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_training_finds_the_exact_optimum_of_a_linear_reward() -> None:
    found = outcome(LINEAR_10, train(LINEAR_10, nabla, 800, lr=5e-2))
    assert found.mean == pytest.approx(0.79879, abs=0.005)
    assert found.variance == pytest.approx(0.20289, abs=0.003)


@pytest.mark.slow
def test_training_finds_the_exact_optimum_of_a_quadratic_reward() -> None:
    found = outcome(QUADRATIC_10, train(QUADRATIC_10, nabla, 1200, lr=5e-2))
    assert found.mean == pytest.approx(0.94419, abs=0.005)
    assert found.variance == pytest.approx(0.12643, abs=0.003)


@pytest.mark.slow
def test_a_flow_function_that_the_forward_loss_trains_inflates_the_variance() -> None:
    joint = train(QUADRATIC_10, lambda w, p: release(w, p, reverse_on_last=True), 1500, lr=5e-2)
    assert outcome(QUADRATIC_10, joint).variance == pytest.approx(0.1461, abs=0.004)


@pytest.mark.slow
def test_adjoint_matching_finds_the_same_optima() -> None:
    """The tilt of a linear reward, up to what the chain remembers of its start (.80157 where it is learned)."""
    linear = outcome(LINEAR_10, train(LINEAR_10, adjoint, 150, lr=5e-2))
    assert (linear.mean, linear.variance) == pytest.approx((0.79879, 0.20289), abs=0.002)
    quadratic = outcome(QUADRATIC_10, train(QUADRATIC_10, adjoint, 300, lr=5e-2))
    assert (quadratic.mean, quadratic.variance) == pytest.approx((0.94419, 0.12643), abs=0.003)
