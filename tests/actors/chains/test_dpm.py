"""DPM-Solver++ of second order: values by hand, diffusers' own steps, and every step that has to be of first order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from actors.chains.ddim import ddim
from actors.chains.dpm import dpm_2m, sde_dpm_2m
from actors.chains.tables import Tables
from actors.noise_levels import NoiseLevels
from actors.transitions import Transitions, make_transitions

SD15: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def preserving(*log_ratio: float) -> tuple[Tensor, Tensor]:
    """Signal and sigma with signal^2 + sigma^2 = 1 of log(signal / sigma)."""
    lambdas = torch.tensor(log_ratio, dtype=torch.float64)
    return torch.sigmoid(2 * lambdas).sqrt(), torch.sigmoid(-2 * lambdas).sqrt()


def previous(tables: Tables) -> Tensor:
    """The weights of the image that was predicted one step before."""
    return torch.zeros_like(tables.std) if tables.of_previous is None else tables.of_previous


def test_a_step_by_hand() -> None:
    """F6: lambda -.6, -.1, .3, with x = 1.3 and a predicted image of .7 + .4 lambda."""
    signal, sigma = preserving(-0.6, -0.1, 0.3)
    tables = sde_dpm_2m(signal, sigma, 0.0)
    assert float(tables.of_state[1]) == pytest.approx(0.5381195452, abs=1e-9)
    assert float(tables.std[1]) == pytest.approx(0.4417316028, abs=1e-9)
    assert float(tables.of_clean[1]) == pytest.approx(0.6194709834, abs=1e-9)
    assert float(previous(tables)[1]) == pytest.approx(-0.1769917095, abs=1e-9)
    mean = tables.of_state[1] * 1.3 + tables.of_clean[1] * 0.66 + previous(tables)[1] * 0.46
    assert float(mean) == pytest.approx(1.0269900714, abs=1e-9)  # exact would be 1.0316602611


@pytest.mark.parametrize(("solver", "eta"), [(dpm_2m, 0.0), (sde_dpm_2m, 1.0)])
def test_without_looking_back_it_is_of_first_order(solver: Any, eta: float) -> None:
    signal, sigma = preserving(-2.0, -0.6, -0.1, 0.3)
    second, first = solver(signal, sigma, 0.0), ddim(signal, sigma, eta)
    torch.testing.assert_close(second.of_state, first.of_state)
    torch.testing.assert_close(second.std, first.std)
    torch.testing.assert_close(second.of_clean + previous(second), first.of_clean)


@pytest.mark.parametrize("solver", [dpm_2m, sde_dpm_2m])
def test_the_first_step_the_one_after_pure_noise_and_the_last_are_of_first_order(solver: Any) -> None:
    sigma = torch.tensor([1.0, 0.8, 0.6, 0.3, 0.0], dtype=torch.float64)
    tables = solver(1 - sigma, sigma, 0.0)
    assert (previous(tables) != 0).tolist() == [False, False, True, False]
    assert [float(table[-1]) for table in tables] == [0.0, 1.0, 0.0, 0.0]
    noisy = torch.tensor([0.9, 0.8, 0.6, 0.3, 0.1], dtype=torch.float64)
    assert (previous(solver(1 - noisy, noisy, 0.0)) != 0).tolist() == [False, True, True, True]
    for few in (sigma[[0, 4]], sigma[[0, 2, 4]]):  # nothing to look back at
        assert solver(1 - few, few, 0.0).of_previous is None


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("ends", ["zero", "sigma_min"])
@pytest.mark.parametrize(("algorithm", "solver"), [("dpmsolver++", "dpm_2m"), ("sde-dpmsolver++", "sde_dpm_2m")])
def test_every_step_is_the_one_of_diffusers(algorithm: str, solver: str, ends: str, flow: bool) -> None:
    scheduler = DPMSolverMultistepScheduler(
        **SD15, algorithm_type=algorithm, final_sigmas_type=ends, lower_order_final=False, use_flow_sigmas=flow,
        prediction_type="flow_prediction" if flow else "epsilon", flow_shift=3.0,
    )  # fmt: skip
    scheduler.set_timesteps(8)
    chain = make_transitions(levels_of(scheduler), solver)
    assert chain.stochastic_steps == ((0,) if solver == "sde_dpm_2m" else ())
    generator = torch.Generator().manual_seed(0)
    x, before = torch.randn(2, 4, 4, 4, generator=generator), None
    for number, timestep in enumerate(scheduler.timesteps):
        output, z = torch.randn(2, *x.shape, generator=generator)
        at = torch.full((2,), number)
        ours = chain.mean(x, output, at, before) + chain.std_at(at, x) * z
        before = chain.clean(x, output, at)
        x = scheduler.step(output, timestep, x, variance_noise=z).prev_sample
        torch.testing.assert_close(ours, x, atol=1e-4, rtol=1e-5)


def levels_of(scheduler: DPMSolverMultistepScheduler) -> NoiseLevels:
    """The states that a scheduler of DPM-Solver visits, as it computes with them."""
    ratio = scheduler.sigmas.double()
    if scheduler.config.use_flow_sigmas:
        return NoiseLevels(scheduler.timesteps, 1 - ratio, ratio, "velocity")
    signal = (1 + ratio**2).rsqrt()
    return NoiseLevels(scheduler.timesteps, signal, ratio * signal, "epsilon")


def test_a_chain_that_is_entered_late_begins_with_first_order() -> None:
    """Nothing was predicted before: then the step is that of `ddpm`."""
    signal, sigma = preserving(-2.0, -0.6, -0.1, 0.3)
    levels = NoiseLevels(torch.arange(3), signal, sigma, "sample")
    second, first = (make_transitions(levels, solver) for solver in ("sde_dpm_2m", "ddpm"))
    x, output, before = torch.randn(3, 1, 4, generator=torch.Generator().manual_seed(0))
    at = torch.tensor([2])
    torch.testing.assert_close(second.mean(x, output, at), first.mean(x, output, at))
    assert not second.mean(x, output, at, before).allclose(first.mean(x, output, at))


def test_a_chain_that_looks_back_says_where() -> None:
    signal, sigma = preserving(-2.0, -0.6, -0.1, 0.3)
    chain = make_transitions(NoiseLevels(torch.arange(3), signal, sigma, "sample"), "sde_dpm_2m")
    assert isinstance(chain, Transitions)
    assert chain.stochastic_steps == (0,)
    assert (chain.std > 0).all()
