"""Flow-GRPO's and DanceGRPO's noise: values by hand, the published form of the step, and both ends of the chain."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from actors.chains.ddim import ddim
from actors.chains.flow_sde import dance_sde, flow_sde


def flow(*sigma: float) -> tuple[Tensor, Tensor]:
    """Signal and sigma of states of flow matching."""
    noise = torch.tensor(sigma, dtype=torch.float64)
    return 1 - noise, noise


def shifted(steps: int, shift: float) -> tuple[Tensor, Tensor]:
    """The states of Stable Diffusion 3."""
    time = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return flow(*(shift * time / (1 + (shift - 1) * time)).tolist())


@pytest.mark.parametrize(
    ("solver", "eta", "std", "of_noise", "mean", "variance"),
    [
        (flow_sde, 0.7, 0.4427188724, 0.5775, 0.81525, 0.52950625),
        (dance_sde, 0.3, 0.0948683298, 0.694375, 0.9438125, 0.491156640625),
    ],
)
def test_a_step_by_hand(
    solver: type(flow_sde), eta: float, std: float, of_noise: float, mean: float, variance: float
) -> None:
    """F4: from .8 to .7 at x = 1 and a velocity of .5, so x0 = .6 and eps = 1.1."""
    tables = solver(*flow(0.8, 0.7), eta)
    found = float(tables.of_state * 1.0 + tables.of_clean * 0.6)
    k = (found - 0.3 * 0.6) / 1.1
    assert float(tables.std) == pytest.approx(std, abs=1e-9)
    assert k == pytest.approx(of_noise, abs=1e-9)
    assert found == pytest.approx(mean, abs=1e-9)
    assert k**2 + float(tables.std) ** 2 == pytest.approx(variance, abs=1e-9)


@pytest.mark.parametrize("solver", [flow_sde, dance_sde])
def test_every_step_is_the_published_one(solver: type(flow_sde)) -> None:
    """Flow-GRPO's line: x (1 + g^2 dt / (2 s)) + v (1 + g^2 (1 - s) / (2 s)) dt, with s_1 in g where s is 1."""
    signal, sigma = shifted(10, 3.0)
    tables, eta = solver(signal, sigma, 0.7), 0.7
    x, v = 1.3, -0.4
    for step in range(9):
        s, dt = float(sigma[step]), float(sigma[step + 1] - sigma[step])
        g = eta * math.sqrt(s / (1 - (float(sigma[1]) if s == 1 else s))) if solver is flow_sde else eta
        mean = x * (1 + g**2 / (2 * s) * dt) + v * (1 + g**2 * (1 - s) / (2 * s)) * dt
        ours = float(tables.of_state[step]) * x + float(tables.of_clean[step]) * (x - s * v)
        assert ours == pytest.approx(mean, abs=1e-12)
        assert float(tables.std[step]) == pytest.approx(g * math.sqrt(-dt), abs=1e-12)


def test_from_pure_noise_the_noise_is_eta_however_short_the_step() -> None:
    """F5."""
    signal, sigma = shifted(10, 3.0)
    assert float(sigma[1]) == pytest.approx(0.9642857143, abs=1e-9)
    tables = flow_sde(signal, sigma, 0.7)
    of_noise = float(tables.of_state[0] * sigma[0])
    assert float(tables.std[0]) == pytest.approx(0.7, abs=1e-12)
    assert of_noise == pytest.approx(0.7192857143, abs=1e-9)
    assert of_noise**2 + 0.49 == pytest.approx(1.0073719388, abs=1e-9)
    assert float(flow_sde(*flow(1.0, 1 - 1e-9, 0.0), 0.7).std[0]) == pytest.approx(0.7, abs=1e-6)


def test_a_chain_that_begins_just_below_pure_noise_begins_like_one_of_pure_noise() -> None:
    """As diffusers' `use_flow_sigmas` begins; 1 - s as it is would give it a noise of 6 in the place of .7."""
    pure, nearly = (flow_sde(*flow(start, 0.9158, 0.8325), 0.7) for start in (1.0, 0.999))
    assert float(nearly.std[0]) == pytest.approx(float(pure.std[0]), abs=0.005)
    assert float(nearly.std[1]) == float(pure.std[1])


def test_a_step_to_the_image_gives_the_predicted_image_and_one_to_just_before_it_would_not() -> None:
    """F5: the published last step, from .25, leaves noise of .218 in the image."""
    nearly = flow_sde(*flow(0.25, 1e-13), 0.7)
    k = float(nearly.of_state * 0.25)
    assert float(nearly.std) == pytest.approx(0.2020725942, abs=1e-9)
    assert k == pytest.approx(-0.0816666667, abs=1e-9)
    assert math.hypot(k, float(nearly.std)) == pytest.approx(0.2179513197, abs=1e-9)
    for solver in (flow_sde, dance_sde):
        tables = solver(*flow(1.0, 0.25, 0.0), 0.7)
        assert [float(table[-1]) for table in tables[:3]] == [0.0, 1.0, 0.0]


def test_both_keep_the_image_and_add_a_little_too_much_noise() -> None:
    signal, sigma = shifted(12, 1.0)
    for solver in (flow_sde, dance_sde):
        tables = solver(signal, sigma, 0.3)
        torch.testing.assert_close(tables.of_state * signal[:-1] + tables.of_clean, signal[1:])
        now, then, variance = sigma[:-1], sigma[1:], tables.std**2
        excess = (tables.of_state * now) ** 2 + variance - then**2
        expected = variance * (1 - then / now) + (variance / (2 * now)) ** 2
        torch.testing.assert_close(excess[:-1], expected[:-1])
        assert (excess[:-1] > 0).all()


def test_the_most_noise_is_ddpms_in_the_limit_of_short_steps() -> None:
    time = torch.tensor([0.5, 0.5 - 1e-7], dtype=torch.float64)
    found, full = flow_sde(1 - time, time, math.sqrt(2)), ddim(1 - time, time, 1.0)
    torch.testing.assert_close(found.std, full.std, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.of_state, full.of_state, rtol=1e-12, atol=0)
