"""A chain that leaves noise: the states before stay, and the last is the unscaled image with that much."""

from __future__ import annotations

import pytest
import torch

from actors.noise_levels import NoiseLevels


@pytest.fixture
def levels() -> NoiseLevels:
    sigma = torch.tensor([1.0, 0.6, 0.2, 0.0], dtype=torch.float64)
    return NoiseLevels(torch.tensor([999, 600, 200]), 1 - sigma, sigma, "velocity")


def test_only_the_last_state_changes(levels: NoiseLevels) -> None:
    ended = levels.ending_at(0.1)
    assert torch.equal(ended.signal[:-1], levels.signal[:-1])
    assert torch.equal(ended.sigma[:-1], levels.sigma[:-1])
    assert (float(ended.signal[-1]), float(ended.sigma[-1])) == (1.0, 0.1)
    assert torch.equal(ended.timesteps, levels.timesteps)


@pytest.mark.parametrize("sigma", [0.25, 0.5])
def test_more_noise_than_before_is_refused(levels: NoiseLevels, sigma: float) -> None:
    with pytest.raises(ValueError, match=r"the last of 3 steps begins where the noise is 0\.25 of the image"):
        levels.ending_at(sigma)
    assert float(levels.ending_at(0.2499).sigma[-1]) == 0.2499
