"""DDIM and DDPM against the formulas of their papers and the steps of diffusers' schedulers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from actors.chains.ddim import ddim
from actors.flow_schedules import flow_matching
from actors.noise_levels import NoiseLevels
from actors.schedules import variance_preserving
from actors.transitions import Transitions, make_transitions

SD15: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
X, OUTPUT = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))


def step(chain: Transitions, x: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Our step, with the noise that diffusers draws from a generator of the same seed, and that noise."""
    at, z = torch.full((2,), number), torch.randn(x.shape, generator=torch.Generator().manual_seed(number))
    return chain.mean(x, OUTPUT, at) + chain.std_at(at, x) * z, z


@given(
    steps=st.integers(1, 1000), eta=st.floats(0, 1), spacing=st.sampled_from(["leading", "linspace", "trailing"]),
    to_one=st.booleans(),
)  # fmt: skip
def test_the_noise_of_stable_diffusion_is_the_papers_formula_to_the_last_bit(
    steps: int, eta: float, spacing: str, to_one: bool
) -> None:
    """Eq. 16 of Song et al., which assumes that variance is preserved, in float64."""
    scheduler = DDIMScheduler(**SD15, clip_sample=False, set_alpha_to_one=to_one, steps_offset=1)
    levels = variance_preserving(scheduler, steps, spacing)
    end = torch.ones(1, dtype=torch.float64) if to_one else scheduler.alphas_cumprod[:1].double()
    alpha_bar = torch.cat([scheduler.alphas_cumprod.double()[levels.timesteps], end])
    now, then = alpha_bar[:-1], alpha_bar[1:]
    expected = eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
    found = ddim(levels.signal, levels.sigma, eta).std
    assert torch.equal(found.float(), expected.float())


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [4, 20])
def test_ddpm_is_the_step_of_diffusers_ddpm(prediction: str, steps: int) -> None:
    scheduler = DDPMScheduler(**SD15, clip_sample=False, prediction_type=prediction, variance_type="fixed_small")
    chain = make_transitions(variance_preserving(scheduler, steps), "ddpm")
    scheduler.set_timesteps(steps)
    assert chain.timesteps.tolist() == scheduler.timesteps.tolist()
    for number, timestep in enumerate(chain.timesteps.tolist()):
        generator = torch.Generator().manual_seed(number)
        theirs = scheduler.step(OUTPUT, timestep, X, generator=generator).prev_sample
        torch.testing.assert_close(step(chain, X, number)[0], theirs, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_ddpm_is_euler_ancestral_in_states_of_unit_signal(prediction: str) -> None:
    scheduler = EulerAncestralDiscreteScheduler(**SD15, prediction_type=prediction, timestep_spacing="trailing")
    chain = make_transitions(variance_preserving(scheduler, 8), "ddpm")
    scheduler.set_timesteps(8)
    for number, timestep in enumerate(scheduler.timesteps):
        signal, signal_next = chain.signal[number].float(), chain.signal[number + 1].float()
        scheduler.scale_model_input(X, timestep)
        generator = torch.Generator().manual_seed(number)
        theirs = scheduler.step(OUTPUT, timestep, X / signal, generator=generator).prev_sample
        torch.testing.assert_close(step(chain, X, number)[0], theirs * signal_next, atol=3e-5, rtol=2e-5)


@pytest.mark.parametrize(("algorithm", "solver"), [("sde-dpmsolver++", "ddpm"), ("dpmsolver++", "ddim")])
@pytest.mark.parametrize("ends", ["zero", "sigma_min"])
def test_first_order_of_dpm_solver_is_ddpm_with_noise_and_ddim_without(algorithm: str, solver: str, ends: str) -> None:
    scheduler = DPMSolverMultistepScheduler(
        **SD15, algorithm_type=algorithm, solver_order=1, final_sigmas_type=ends, timestep_spacing="trailing"
    )
    chain = make_transitions(variance_preserving(scheduler, 6), solver, eta=0.0 if solver == "ddim" else None)
    scheduler.set_timesteps(6)
    assert chain.timesteps.tolist() == scheduler.timesteps.tolist()
    for number, timestep in enumerate(scheduler.timesteps):
        ours, z = step(chain, X, number)
        theirs = scheduler.step(OUTPUT, timestep, X, variance_noise=z).prev_sample
        torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=2e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("stochastic", [False, True])
def test_flow_matching_without_noise_is_eulers_step_and_with_all_of_it_new_the_scheduler_s_own(
    shift: float, stochastic: bool
) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift, stochastic_sampling=stochastic)
    levels = flow_matching(scheduler, 5)
    chain = make_transitions(levels, *(("cps", 1.0) if stochastic else ("ddim", 0.0)))
    for number, timestep in enumerate(scheduler.timesteps):
        generator = torch.Generator().manual_seed(number)
        theirs = scheduler.step(OUTPUT, timestep, X, generator=generator).prev_sample
        torch.testing.assert_close(step(chain, X, number)[0], theirs, atol=2e-6, rtol=2e-6)


def test_ddpm_is_the_posterior_of_the_noising_chain_whatever_the_scale() -> None:
    """Bayes: p(x_next | x, x0) is proportional to p(x | x_next) p(x_next | x0), here for flow matching's states."""
    sigma = torch.tensor([1.0, 0.7, 0.4, 0.1], dtype=torch.float64)
    levels = NoiseLevels(torch.arange(3), 1 - sigma, sigma, "velocity")
    chain = make_transitions(levels, "ddpm")
    like = torch.zeros(3, 1, dtype=torch.float64)
    weight, variance = (table.flatten().double() for table in chain.noising(torch.arange(3), like))
    precision = 1 / sigma[1:] ** 2 + weight**2 / variance
    torch.testing.assert_close(chain.std, precision.rsqrt(), rtol=1e-6, atol=0)
    torch.testing.assert_close(chain.of_state, weight / variance / precision, rtol=1e-6, atol=1e-9)
    of_clean = (1 - sigma[1:]) / sigma[1:] ** 2 / precision
    torch.testing.assert_close(chain.of_clean, of_clean, rtol=1e-6, atol=0)
