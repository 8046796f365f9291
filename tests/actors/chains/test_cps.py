"""Flow-CPS: values by hand, the noise that a state should have, and where it meets other solvers."""

from __future__ import annotations

import math

import pytest
import torch

from actors.chains.cps import cps
from actors.chains.ddim import ddim

SIGMA = torch.tensor([1.0, 0.8, 0.7, 0.2, 0.0], dtype=torch.float64)
SIGNAL = 1 - SIGMA


def test_a_step_by_hand() -> None:
    """F4: from .8 to .7 at x = 1 and a velocity of .5, so x0 = .6 and eps = 1.1."""
    tables = cps(SIGNAL, SIGMA, 0.8)
    mean = float(tables.of_state[1] + tables.of_clean[1] * 0.6)
    assert float(tables.std[1]) == pytest.approx(0.6657395614, abs=1e-9)
    assert float(tables.of_state[1] * 0.8) == pytest.approx(0.2163118961, abs=1e-9)
    assert mean == pytest.approx(0.4179430857, abs=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8, 1.0])
def test_every_state_has_the_image_and_the_noise_that_it_should_have(eta: float) -> None:
    tables = cps(SIGNAL, SIGMA, eta)
    torch.testing.assert_close((tables.of_state * SIGMA[:-1]) ** 2 + tables.std**2, SIGMA[1:] ** 2)
    torch.testing.assert_close(tables.of_state * SIGNAL[:-1] + tables.of_clean, SIGNAL[1:])


def test_it_ends_at_the_predicted_image() -> None:
    assert [float(table[-1]) for table in cps(SIGNAL, SIGMA, 0.8)[:3]] == [0.0, 1.0, 0.0]


def test_ddpm_is_cps_with_a_share_of_each_steps_own() -> None:
    """F4: (2 / pi) arccos rho; from .8 to .7 rho is .5833333333."""
    full = ddim(SIGNAL, SIGMA, 1.0)
    rho = SIGNAL[:-1] * SIGMA[1:] / (SIGNAL[1:] * SIGMA[:-1])
    share = 2 / math.pi * rho.arccos()
    assert float(rho[1]) == pytest.approx(0.5833333333, abs=1e-9)
    assert float(share[1]) == pytest.approx(0.6034962810, abs=1e-9)
    assert float(full.std[1]) == pytest.approx(0.5685630034, abs=1e-9)
    assert float(full.of_state[1] * 0.8) == pytest.approx(0.4083333333, abs=1e-9)
    for step, eta in enumerate(share.tolist()):
        ours = cps(SIGNAL, SIGMA, eta)
        for table, other in zip(ours[:3], full[:3], strict=True):
            assert float(table[step]) == pytest.approx(float(other[step]), abs=1e-9)
