"""The transition tables, the log-density and the KL, against closed forms and against diffusers' own step."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from actors.noise_levels import NoiseLevels
from actors.schedules import variance_preserving
from actors.transitions import Transitions, kl, log_prob, make_transitions


def sd15(**overrides: Any) -> DDIMScheduler:
    """Stable Diffusion 1.5's scheduler."""
    config = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1} | overrides
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **config)


@pytest.fixture
def half_to_four_fifths() -> Transitions:
    """A chain whose first step goes from alpha_bar 0.5 to 0.8, as in T3, and whose second adds no noise."""
    betas = DDIMScheduler(num_train_timesteps=2, trained_betas=[0.2, 0.375], clip_sample=False, set_alpha_to_one=False)
    return make_transitions(variance_preserving(betas, 2))


def image(*values: float) -> Tensor:
    """A 1 x 1 x 1 latent for each value, as a batch."""
    return torch.tensor(values).view(-1, 1, 1, 1)


def test_alpha_bar_of_stable_diffusion() -> None:
    """T1."""
    chain = make_transitions(variance_preserving(sd15(steps_offset=0), 1000))
    found = chain.alpha_bar[[999 - t for t in (0, 500, 999)]]
    torch.testing.assert_close(found, torch.tensor([0.99915, 0.2763326838, 0.0046600985]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("steps", "timestep", "sigma", "log_ratio_weight"),
    [
        (50, 981, 0.45446327, 0.131),
        (50, 481, 0.28768527, 0.071),
        (50, 21, 0.03947955, 5.36),
        (50, 1, 0.02064832, 0.503),
        (20, 951, 0.64439101, 0.364),
        (20, 451, 0.40155296, 0.194),
        (20, 51, 0.04059673, 14.7),
        (20, 1, 0.02064832, 0.503),
    ],
)
def test_sigma_of_stable_diffusion(steps: int, timestep: int, sigma: float, log_ratio_weight: float) -> None:
    """T1, and the weights c^2 / 2 sigma^2 of an epsilon error in a log-ratio."""
    chain = make_transitions(variance_preserving(sd15(), steps))
    at = chain.timesteps.tolist().index(timestep)
    assert float(chain.std[at]) == pytest.approx(sigma, abs=1e-5)
    assert float(chain.output_weight[at] ** 2 / (2 * chain.std[at] ** 2)) == pytest.approx(log_ratio_weight, rel=7e-3)


def test_log_prob_of_a_known_difference() -> None:
    """T2: the mean over dimensions, not the sum."""
    difference = torch.tensor([0.1, -0.2, 0.3, 0.0]).view(1, 1, 2, 2)
    assert float(log_prob(difference, torch.zeros(1, 1, 2, 2), image(0.5))) == pytest.approx(-0.2957913526, abs=1e-6)


def test_off_policy_ratios_are_biased_downwards() -> None:
    """T18: of means that are .05 apart at a deviation of .2, in as many dimensions as Stable Diffusion has."""
    generator, mean = torch.Generator().manual_seed(0), torch.zeros(256, 4, 64, 64)
    drawn = 0.2 * torch.randn(mean.shape, generator=generator)
    std = torch.full((256, 1, 1, 1), 0.2)
    log_ratio = log_prob(drawn, mean + 0.05, std) - log_prob(drawn, mean, std)
    assert float(log_ratio.mean()) == pytest.approx(-0.03125, abs=5e-4)
    assert float(log_ratio.std()) == pytest.approx(0.001953, rel=0.15)


def test_the_score_function_gives_the_rewards_gradient() -> None:
    """T20: of N(mu, .5^2) and the reward x, E[r d log p / d mu] = d E[r] / d mu = 1."""
    mean = torch.tensor(0.3, requires_grad=True)
    drawn = 0.3 + 0.5 * torch.randn(2_000_000, 1, generator=torch.Generator().manual_seed(0))
    density = log_prob(drawn, mean.expand(len(drawn), 1), torch.tensor(0.5))
    (gradient,) = torch.autograd.grad((drawn.flatten() * density).mean(), mean)
    assert float(gradient) == pytest.approx(1, abs=5e-3)


def test_ddim_step_by_hand(half_to_four_fifths: Transitions) -> None:
    """T3."""
    chain, step = half_to_four_fifths, torch.tensor([0])
    mean = chain.mean(image(1.0), image(0.5), step)
    std = chain.std_at(step, mean)
    assert float(chain.alpha_bar[0]) == pytest.approx(0.5, abs=1e-6)
    assert float(std**2) == pytest.approx(0.15, abs=1e-6)
    assert float(mean) == pytest.approx(0.9295008674, abs=1e-6)
    assert float(chain.output_weight[0]) == pytest.approx(-0.6708203932, abs=1e-6)
    assert float(log_prob(image(1.0), mean, std)) == pytest.approx(0.0130543669, abs=1e-6)


def test_kl_by_hand(half_to_four_fifths: Transitions) -> None:
    """T3: predictions that differ by 0.1."""
    chain, step = half_to_four_fifths, torch.tensor([0])
    mean, reference = (chain.mean(image(1.0), image(eps), step) for eps in (0.6, 0.5))
    assert float(kl(mean, reference, chain.std_at(step, mean))) == pytest.approx(0.015, abs=1e-6)


def test_log_ratio_by_hand_in_both_forms(half_to_four_fifths: Transitions) -> None:
    """T3: from the densities, and from the distances to the noise that would have led to x_next."""
    chain, step, x, x_next = half_to_four_fifths, torch.tensor([0]), image(1.0), image(1.0)
    std, slope = chain.std_at(step, x), chain.output_weight[0]
    mean, reference = (chain.mean(x, image(eps), step) for eps in (0.6, 0.5))
    direct = log_prob(x_next, mean, std) - log_prob(x_next, reference, std)
    ideal = (x_next - chain.state_weight[0] * x) / slope
    by_noise = -(slope**2) / (2 * std**2) * ((ideal - 0.6) ** 2 - (ideal - 0.5) ** 2)
    assert float(direct) == pytest.approx(-0.0465281706, abs=1e-6)
    assert float(by_noise) == pytest.approx(-0.0465281706, abs=1e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("set_alpha_to_one", [False, True])
def test_every_step_is_the_one_of_diffusers(prediction: str, eta: float, set_alpha_to_one: bool) -> None:
    scheduler = sd15(prediction_type=prediction, set_alpha_to_one=set_alpha_to_one)
    chain = make_transitions(variance_preserving(scheduler, 10), "ddim", eta)
    scheduler.set_timesteps(10)
    x, output, z = torch.randn(3, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for step, timestep in enumerate(chain.timesteps.tolist()):
        at = torch.full((2,), step)
        ours = chain.mean(x, output, at) + chain.std_at(at, x) * z
        theirs = scheduler.step(output, timestep, x, eta=eta, variance_noise=z if eta else None).prev_sample
        torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=1e-5)


@pytest.mark.parametrize("steps", [5, 20, 50])
def test_ddpm_is_the_posterior_of_ho(steps: int) -> None:
    """Eq. 7 of Ho et al., with x0 written in x and eps."""
    chain = make_transitions(variance_preserving(sd15(), steps), "ddpm")
    now, then = chain.alpha_bar[:-1].double(), chain.alpha_bar[1:].double()
    beta = 1 - now / then
    of_clean = then.sqrt() * beta / (1 - now)
    expected = {
        "std": ((1 - then) / (1 - now) * beta).sqrt(),
        "state_weight": (now / then).sqrt() * (1 - then) / (1 - now) + of_clean / now.sqrt(),
        "output_weight": -of_clean * ((1 - now) / now).sqrt(),
    }
    for table, values in expected.items():
        torch.testing.assert_close(getattr(chain, table).double(), values, rtol=2e-4, atol=0)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_velocities_start_at_pure_noise(eta: float) -> None:
    """Zero terminal SNR: finite tables, and each step the one of diffusers, which divides by alpha_bar nowhere here."""
    scheduler = sd15(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing")
    chain = make_transitions(variance_preserving(scheduler, 5), "ddim", eta)
    scheduler.set_timesteps(5)
    assert float(chain.alpha_bar[0]) == 0.0
    x, output, z = torch.randn(3, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    start = torch.zeros(2, dtype=torch.int64)
    ours = chain.mean(x, output, start) + chain.std_at(start, x) * z
    then = chain.signal[1] ** 2  # x0 is -v, and the direction to x_next is x itself
    by_hand = -then.sqrt() * output + (1 - then - chain.std[0] ** 2).clamp(min=0).sqrt() * x + chain.std[0] * z
    torch.testing.assert_close(ours, by_hand.float())
    assert torch.equal(chain.clean(x, output, start), -output)
    for step, timestep in enumerate(chain.timesteps.tolist()[1:], start=1):
        at = torch.full((2,), step)
        ours = chain.mean(x, output, at) + chain.std_at(at, x) * z
        theirs = scheduler.step(output, timestep, x, eta=eta, variance_noise=z if eta else None).prev_sample
        torch.testing.assert_close(ours, theirs, atol=3e-5, rtol=1e-5)


def test_predicted_noise_cannot_start_at_pure_noise() -> None:
    with pytest.raises(ValueError, match="rescale_betas_zero_snr"):
        make_transitions(variance_preserving(sd15(rescale_betas_zero_snr=True, timestep_spacing="trailing"), 5))
    chain = make_transitions(variance_preserving(sd15(rescale_betas_zero_snr=True), 5))  # leading spacing starts later
    assert chain.state_weight.isfinite().all()


def test_a_state_without_noise_within_the_chain_is_refused() -> None:
    betas = DDIMScheduler(num_train_timesteps=2, trained_betas=[0.0, 0.5], clip_sample=False, set_alpha_to_one=False)
    with pytest.raises(ValueError, match="alpha_bar is 1"):
        make_transitions(variance_preserving(betas, 2))


def test_velocity_and_noise_describe_the_same_mean() -> None:
    by_noise = make_transitions(variance_preserving(sd15(), 8))
    by_velocity = make_transitions(variance_preserving(sd15(prediction_type="v_prediction"), 8))
    step = torch.arange(8)
    clean, eps = torch.randn(2, 8, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    signal, spread = (
        v.view(-1, 1, 1, 1) for v in (by_noise.alpha_bar[:-1].sqrt(), (1 - by_noise.alpha_bar[:-1]).sqrt())
    )
    x, velocity = signal * clean + spread * eps, signal * eps - spread * clean
    torch.testing.assert_close(by_velocity.noise(x, velocity, step), eps, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(by_velocity.mean(x, velocity, step), by_noise.mean(x, eps, step), atol=1e-5, rtol=1e-5)


def test_each_row_of_a_batch_takes_its_own_step() -> None:
    chain, order = make_transitions(variance_preserving(sd15(), 5)), torch.tensor([4, 0, 2])
    x, eps = torch.randn(2, 3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    alone = [chain.mean(x[i : i + 1], eps[i : i + 1], order[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(chain.mean(x, eps, order), torch.cat(alone), rtol=0, atol=0)
    assert chain.std_at(order, x).flatten().tolist() == chain.std[order].float().tolist()


def test_the_clean_image_is_what_was_noised_and_the_last_state_is_clean() -> None:
    chain, states = make_transitions(variance_preserving(sd15(), 8)), torch.arange(9)
    clean, eps = torch.randn(2, 9, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    alpha_bar = chain.alpha_bar.view(-1, 1, 1, 1)
    x = alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * eps
    found = chain.clean(x, eps, states)  # the prediction is the noise here
    torch.testing.assert_close(found[:-1], clean[:-1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[-1], x[-1], rtol=0, atol=0)
    assert float(chain.alpha_bar[-1]) == pytest.approx(0.99915, abs=1e-6)


@pytest.mark.parametrize(
    ("timestep", "kappa"), [(981, 1.13), (481, 1.31), (81, 4.84), (41, 10.2), (21, 82.9), (1, 48.6)]
)
def test_score_weights_of_stable_diffusion(timestep: int, kappa: float) -> None:
    chain = make_transitions(variance_preserving(sd15(), 50))
    step = torch.tensor([chain.timesteps.tolist().index(timestep)])
    found = float(chain.score_weight(step, image(0.0)))
    assert -found == pytest.approx(kappa, rel=5e-3)
    now, then = chain.alpha_bar[step].double(), chain.alpha_bar[step + 1].double()
    expected = -(then.sqrt() * (1 - now).sqrt()) / (now.sqrt() * (1 - then))
    assert found == pytest.approx(float(expected), rel=2e-4)


@pytest.mark.parametrize("overrides", [{"clip_sample": True}, {"thresholding": True}])
def test_a_scheduler_that_clips_is_refused(overrides: dict[str, bool]) -> None:
    with pytest.raises(ValueError, match="no density"):
        make_transitions(variance_preserving(sd15(**overrides), 5))


@pytest.mark.parametrize("eta", [1e-320, 1e-30, 1e-7, 1e-3])
def test_noise_that_float32_does_not_resolve_is_refused_with_the_least_that_it_does(eta: float) -> None:
    with pytest.raises(ValueError, match=r"set policy\.eta to 0, or to more than 0\.001478\.$"):
        make_transitions(variance_preserving(sd15(), 50), "ddim", eta)


def test_from_the_least_noise_on_what_was_drawn_is_known_from_the_states() -> None:
    chain = make_transitions(variance_preserving(sd15(), 50), "ddim", eta=0.0014781)
    std = chain.std[chain.std > 0].min()
    mean, z = torch.randn(2, 10_000, generator=torch.Generator().manual_seed(0))
    assert ((mean + std * z - mean) / std - z).square().mean().sqrt() < 5e-3


def test_noise_that_float32_does_not_resolve_is_measured_by_each_solver_itself() -> None:
    """Flow-CPS's is sin(eta pi / 2) of the next state's, so the least eta is another."""
    levels = variance_preserving(sd15(), 50)
    least = 2.0**-15 / (float(levels.sigma[-1]) * math.pi / 2)
    with pytest.raises(ValueError, match=rf"or to more than {least:.4g}\.$"):
        make_transitions(levels, "cps", 0.99 * least)
    assert float(make_transitions(levels, "cps", 1.001 * least).std[-1]) > 2.0**-15


def test_noise_outside_the_window_need_not_be_resolved() -> None:
    levels = variance_preserving(sd15(), 50)
    assert make_transitions(levels, "ddim", 0.001, (0, 10)).stochastic_steps == tuple(range(10))
    with pytest.raises(ValueError, match=r"set policy\.eta to 0, or to more than"):
        make_transitions(levels, "ddim", 0.001, (40, 50))


def test_a_step_whose_full_noise_is_lost_says_so() -> None:
    sigma = torch.tensor([0.9, 0.5, 0.5 - 1e-12], dtype=torch.float64)
    levels = NoiseLevels(torch.arange(2), 1 - sigma, sigma, "velocity")
    with pytest.raises(ValueError, match=r"that ddpm adds in step 1 .* policy\.steps lower"):
        make_transitions(levels, "ddpm")


@pytest.mark.parametrize(
    ("solver", "eta", "said"),
    [
        ("ddim", 1.5, "the solver ddim takes at most 1"),
        ("cps", 1.01, "the solver cps takes at most 1"),
        ("flow_sde", 1.5, "the solver flow_sde takes at most 1.414"),
        ("ddpm", 1.0, "the solver ddpm leaves no choice"),
        ("dpm_2m", 0.0, "the solver dpm_2m leaves no choice"),
    ],
)
def test_an_eta_that_a_solver_does_not_take_is_refused(solver: str, eta: float, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        make_transitions(variance_preserving(sd15(), 5), solver, eta)


@pytest.mark.parametrize("solver", ["ddim", "flow_sde", "cps"])
def test_steps_outside_the_window_follow_the_ode(solver: str) -> None:
    levels = variance_preserving(sd15(), 6)
    mixed, noisy, still = (
        make_transitions(levels, *which) for which in ((solver, None, (1, 3)), (solver,), ("ddim", 0))
    )
    assert mixed.stochastic_steps == (1, 2)
    for table in ("of_state", "of_clean", "std"):
        found, inside, outside = (getattr(chain, table) for chain in (mixed, noisy, still))
        assert torch.equal(found, torch.where(noisy.std.new_tensor([0, 1, 1, 0, 0, 0]) > 0, inside, outside))


@pytest.mark.parametrize(
    ("window", "solver", "said"),
    [
        ((3, 3), "ddim", "two numbers a < b from 0 to 6"),
        ((-1, 3), "ddim", "two numbers a < b from 0 to 6"),
        ((0, 7), "ddim", "two numbers a < b from 0 to 6"),
        ((0, 3), "sde_dpm_2m", "solvers of second order do not"),
    ],
)
def test_a_window_that_is_none_is_refused(window: tuple[int, int], solver: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make_transitions(variance_preserving(sd15(), 6), solver, noisy=window)


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "flow_sde", "cps"])
def test_a_chain_may_be_told_to_end_before_the_image(solver: str) -> None:
    levels = variance_preserving(sd15(set_alpha_to_one=True), 6)
    chain = make_transitions(levels, solver, final_sigma=0.03)
    assert chain.stochastic_steps == tuple(range(6))
    assert (float(chain.signal[-1]), float(chain.sigma[-1])) == (1.0, 0.03)
    assert float(chain.alpha_bar[-1]) == pytest.approx(1 / 1.0009)
    assert make_transitions(variance_preserving(sd15(), 6), solver, final_sigma=0.0).std[-1] == 0
    with pytest.raises(ValueError, match=r"final_sigma is 0\.05, but .* where the noise is 0\.04131 "):
        make_transitions(levels, solver, final_sigma=0.05)


def test_a_chain_that_ends_at_once_has_no_noise_to_resolve() -> None:
    assert (
        make_transitions(variance_preserving(sd15(set_alpha_to_one=True), 1), "ddim", eta=1e-30).stochastic_steps == ()
    )


@pytest.mark.parametrize("first", [6e-8, 1.2e-7, 1e-6])
def test_all_of_the_noise_is_resolved_whatever_the_betas(first: float) -> None:
    betas = DDIMScheduler(num_train_timesteps=3, trained_betas=[first, 6e-8, 6e-8], clip_sample=False)
    assert make_transitions(variance_preserving(betas, 3), "ddpm").std[:-1].min() > 1e-4


def test_a_scheduler_that_predicts_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="'sample'"):
        make_transitions(variance_preserving(sd15(prediction_type="sample"), 5))


@pytest.mark.parametrize(
    ("scheduler", "eta", "expected"),
    [
        (sd15(), 1.0, (0, 1, 2, 3)),
        (sd15(), 0.0, ()),
        (sd15(set_alpha_to_one=True), 1.0, (0, 1, 2)),  # ends at alpha_bar 1, without noise
    ],
)
def test_only_steps_with_noise_have_a_density(scheduler: DDIMScheduler, eta: float, expected: tuple[int, ...]) -> None:
    assert make_transitions(variance_preserving(scheduler, 4), "ddim", eta).stochastic_steps == expected


def test_log_prob_is_the_gaussian_density() -> None:
    x_next, mean = torch.randn(2, 3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    std = image(0.02, 0.5, 2.0)
    expected = torch.distributions.Normal(mean, std).log_prob(x_next).mean(dim=(1, 2, 3))
    torch.testing.assert_close(log_prob(x_next, mean, std), expected)


def test_the_sampled_action_and_the_reference_carry_no_gradient() -> None:
    x_next, mean, reference = (torch.randn(2, 1, 2, 2, requires_grad=True) for _ in range(3))
    (log_prob(x_next, mean, image(0.5, 0.5)) + kl(mean, reference, image(0.5, 0.5))).sum().backward()
    assert x_next.grad is None
    assert reference.grad is None
    assert mean.grad is not None
    assert mean.grad.abs().sum() > 0


def test_kl_is_the_mean_log_ratio() -> None:
    """Exactly so over the antithetic draws mean + std z and mean - std z."""
    mean, reference, z = torch.randn(3, 4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    std = torch.full((4, 1, 1, 1), 0.7)
    ratios = [log_prob(x, mean, std) - log_prob(x, reference, std) for x in (mean + std * z, mean - std * z)]
    torch.testing.assert_close(kl(mean, reference, std), sum(ratios) / 2)
