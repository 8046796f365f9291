"""The gain of a drift: known where the reward is linear in the noise."""

from __future__ import annotations

import pytest
import torch

from benchmarks.reward_gradient_signal import gain


def test_the_drift_along_a_linear_reward_gains_its_standard_deviation_and_one_across_gains_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    noises, slope = torch.randn(20_000, 2, 6, generator=generator), torch.randn(6, generator=generator)
    rewards = noises[:, 0] @ slope  # step 0 decides everything, step 1 nothing
    across = slope.roll(1) - (slope.roll(1) @ slope) / (slope @ slope) * slope
    for drift, expected in ((slope, slope.norm()), (-3 * slope, -slope.norm()), (across, torch.tensor(0.0))):
        found, error = gain(drift.expand_as(noises), noises, rewards)
        assert float(error.max()) < 0.05
        assert float(found[0]) == pytest.approx(float(expected), abs=4 * float(error[0]))
        assert float(found[1]) == pytest.approx(0, abs=4 * float(error[1]))
