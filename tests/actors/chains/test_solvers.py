"""What every solver keeps: invariance under rescaling, the image's share, the law of Gaussian data, densities."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from actors.chains import SOLVERS
from actors.chains.tables import Tables
from actors.config import PolicyConfig
from actors.flow_schedules import flow_matching
from actors.noise_levels import NoiseLevels, Prediction
from actors.schedules import variance_preserving
from actors.transitions import log_prob, make_transitions

SPREAD = 0.25  # variance of the data, whose mean is 0


def etas(name: str) -> tuple[float, ...]:
    """No noise, the default and the most; 0 for solvers without a choice."""
    return (0.0,) if (default := SOLVERS[name].eta) is None else (0.0, default, SOLVERS[name].most)


EVERY = [(name, eta) for name in SOLVERS for eta in etas(name)]


def preserving(steps: int) -> tuple[Tensor, Tensor]:
    """Signal and sigma, evenly spaced in log(signal / sigma) from -3 to 2."""
    lambdas = torch.linspace(-3, 2, steps + 1, dtype=torch.float64)
    return torch.sigmoid(2 * lambdas).sqrt(), torch.sigmoid(-2 * lambdas).sqrt()


def flow(steps: int) -> tuple[Tensor, Tensor]:
    """Signal and sigma of flow matching, evenly spaced from pure noise to the image."""
    sigma = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    return 1 - sigma, sigma


def final_variance(signal: Tensor, sigma: Tensor, tables: Tables) -> float:
    """Variance of the last state for data N(0, SPREAD), whose predicted image is its mean given the state.

    Every step is linear in the state and the last predicted image, so their covariance is carried along exactly.
    """
    gain = signal * SPREAD / (signal**2 * SPREAD + sigma**2)
    covariance = torch.zeros(2, 2, dtype=torch.float64)
    covariance[0, 0] = signal[0] ** 2 * SPREAD + sigma[0] ** 2
    for step in range(len(sigma) - 1):
        back = 0.0 if tables.of_previous is None else float(tables.of_previous[step])
        of_state = float(tables.of_state[step] + tables.of_clean[step] * gain[step])
        move = torch.tensor([[of_state, back], [float(gain[step]), 0.0]], dtype=torch.float64)
        covariance = move @ covariance @ move.T
        covariance[0, 0] += tables.std[step] ** 2
    return float(covariance[0, 0])


def error(name: str, eta: float, states: tuple[Tensor, Tensor]) -> float:
    """How much the variance of the last state is off."""
    signal, sigma = states
    exact = float(signal[-1] ** 2 * SPREAD + sigma[-1] ** 2)
    return final_variance(signal, sigma, SOLVERS[name].tables(signal, sigma, eta)) - exact


# ---------------------------------------------------------------------- scales


def test_the_config_names_every_solver() -> None:
    assert get_args(PolicyConfig.model_fields["solver"].annotation) == tuple(SOLVERS)


@given(
    chosen=st.sampled_from(EVERY), data=st.data(), steps=st.integers(1, 12), pure=st.booleans(), to_image=st.booleans()
)
def test_a_rescaled_state_steps_to_the_rescaled_next_one(
    chosen: tuple[str, float], data: st.DataObject, steps: int, pure: bool, to_image: bool
) -> None:
    name, eta = chosen
    gaps = torch.tensor(data.draw(st.lists(st.floats(0.05, 1), min_size=steps, max_size=steps)), dtype=torch.float64)
    lambdas = torch.cat([torch.tensor([-3.0], dtype=torch.float64), gaps]).cumsum(0)
    signal, sigma = torch.sigmoid(2 * lambdas).sqrt(), torch.sigmoid(-2 * lambdas).sqrt()
    if pure:
        signal[0], sigma[0] = 0.0, 1.0
    if to_image:
        signal[-1], sigma[-1] = 1.0, 0.0
    sizes = data.draw(st.lists(st.floats(0.1, 10), min_size=steps + 1, max_size=steps + 1))
    scale = torch.tensor(sizes, dtype=torch.float64)
    plain, scaled = (
        SOLVERS[name].tables(*states, eta) for states in ((signal, sigma), (scale * signal, scale * sigma))
    )
    near: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}
    torch.testing.assert_close(scaled.of_state, plain.of_state * scale[1:] / scale[:-1], **near)
    torch.testing.assert_close(scaled.of_clean, plain.of_clean * scale[1:], **near)
    torch.testing.assert_close(scaled.std, plain.std * scale[1:], **near)
    assert (scaled.of_previous is None) == (plain.of_previous is None)
    if plain.of_previous is not None and scaled.of_previous is not None:
        torch.testing.assert_close(scaled.of_previous, plain.of_previous * scale[1:], **near)
    # A noise-free image goes through unchanged, and some solvers give each state the noise that it should have.
    looking_back = 0.0 if plain.of_previous is None else plain.of_previous
    torch.testing.assert_close(plain.of_state * signal[:-1] + plain.of_clean + looking_back, signal[1:], **near)
    if name in ("ddim", "ddpm", "cps"):
        noise = (plain.of_state * sigma[:-1]) ** 2 + plain.std**2
        torch.testing.assert_close(noise, sigma[1:] ** 2, rtol=1e-9, atol=1e-12)


def test_one_state_in_all_predictions() -> None:
    """F1: .8 x0 + .6 eps with x0 = 1 and eps = -.5, and what an error of .1 in the noise is in the others."""
    tables = torch.tensor([[0.8, 0.9], [0.6, 0.1]], dtype=torch.float64)
    x, at = torch.tensor([[0.5]]), torch.tensor([0])
    outputs: dict[Prediction, tuple[float, float]] = {
        "epsilon": (-0.5, 0.1), "v_prediction": (-1.0, 0.125), "velocity": (-1.5, 0.175), "sample": (1.0, -0.075),
    }  # fmt: skip
    for prediction, (output, off) in outputs.items():
        chain = make_transitions(NoiseLevels(torch.arange(1), *tables, prediction))
        right, wrong = torch.tensor([[output]]), torch.tensor([[output + off]])
        assert float(chain.clean(x, right, at)) == pytest.approx(1.0, abs=1e-6)
        assert float(chain.noise(x, right, at)) == pytest.approx(-0.5, abs=1e-6)
        assert float(chain.clean(x, wrong, at)) == pytest.approx(0.925, abs=1e-6)
        assert float(chain.noise(x, wrong, at)) == pytest.approx(-0.4, abs=1e-6)


@pytest.mark.parametrize(
    ("timestep", "ratio", "time"),
    [(981, 13.120411, 0.929181), (481, 1.519217, 0.603051), (21, 0.141463, 0.123932), (1, 0.041314, 0.039675)],
)
def test_stable_diffusion_in_flow_coordinates(timestep: int, ratio: float, time: float) -> None:
    """F2."""
    levels = sd15(50)
    at = levels.timesteps.tolist().index(timestep)
    assert float(levels.sigma[at] / levels.signal[at]) == pytest.approx(ratio, rel=3e-6, abs=1e-6)
    assert float(levels.sigma[at] / (levels.signal + levels.sigma)[at]) == pytest.approx(time, abs=1e-6)


@pytest.mark.parametrize(("name", "eta"), [("ddim", 1.0), ("ddpm", 0.0), ("sde_dpm_2m", 0.0), ("cps", 2 / 3)])
def test_a_step_by_hand_in_both_coordinates(name: str, eta: float) -> None:
    """F3: alpha_bar .5 to .8 at x = 1 and predicted noise of .5, and the same as flow matching."""
    alpha_bar = torch.tensor([0.5, 0.8], dtype=torch.float64)
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    size = signal + sigma
    clean = (1 - float(sigma[0]) * 0.5) / float(signal[0])
    tables = SOLVERS[name].tables(signal, sigma, eta)
    mean = float(tables.of_state + tables.of_clean * clean)
    assert mean == pytest.approx(0.9295008674, abs=1e-9)
    assert float(tables.std) == pytest.approx(math.sqrt(0.15), abs=1e-9)
    tables = SOLVERS[name].tables(signal / size, sigma / size, eta)
    mean = float(tables.of_state / size[0] + tables.of_clean * clean)
    assert mean == pytest.approx(0.6928090416, abs=1e-9)
    assert float(tables.std) == pytest.approx(0.2886751346, abs=1e-9)


# ---------------------------------------------------------------------- laws


def test_the_law_of_gaussian_data() -> None:
    """F7: variance of the last of ten steps with noise, gain in standard deviation without."""
    signal, sigma = preserving(10)
    exact, start = (float(signal[i] ** 2 * SPREAD + sigma[i] ** 2) for i in (-1, 0))
    assert exact == pytest.approx(0.2634896575, abs=1e-9)
    assert math.sqrt(exact / start) == pytest.approx(0.5137890601, abs=1e-9)
    found = {name: exact + error(name, 0.0, (signal, sigma)) for name in ("ddpm", "sde_dpm_2m", "ddim", "dpm_2m")}
    assert found["ddpm"] == pytest.approx(0.1714275389, abs=1e-9)
    assert found["sde_dpm_2m"] == pytest.approx(0.2602068560, abs=1e-9)
    assert math.sqrt(found["ddim"] / start) == pytest.approx(0.4572723979, abs=1e-9)
    assert math.sqrt(found["dpm_2m"] / start) == pytest.approx(0.5145252724, abs=1e-9)
    assert [round(error("ddpm", 0.0, preserving(n)), 4) for n in (20, 40, 80)] == [-0.0529, -0.0284, -0.0148]


@pytest.mark.parametrize(("name", "eta"), [pair for pair in EVERY if pair[0] != "cps" or not pair[1]])
def test_the_law_is_approached_in_the_order_of_the_solver(name: str, eta: float) -> None:
    few, many = (abs(error(name, eta, preserving(steps))) for steps in (320, 640))
    assert math.log2(few / many) == pytest.approx(2 if name.endswith("2m") else 1, abs=0.1)
    assert many < 0.003
    assert abs(error(name, eta, flow(640))) < 0.003


def test_cps_does_not_approach_the_law() -> None:
    """It mixes anew with the mean of the image in every step, so more steps leave less than the data's variance."""
    assert error("cps", 0.8, preserving(10)) < -0.05
    assert error("cps", 0.8, preserving(640)) < -0.05
    assert abs(error("cps", 0.8 / math.sqrt(640), preserving(640))) < 0.003


# ---------------------------------------------------------------------- densities


def sd15(steps: int, **values: Any) -> NoiseLevels:
    """States of Stable Diffusion 1.5."""
    config = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1} | values
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **config)
    return variance_preserving(scheduler, steps)


SCHEDULES = {
    "sd15": sd15,
    "to the image": lambda steps: sd15(steps, set_alpha_to_one=True, timestep_spacing="trailing"),
    "zero terminal SNR": lambda steps: sd15(
        steps, rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type="v_prediction"
    ),
    "flow": lambda steps: flow_matching(FlowMatchEulerDiscreteScheduler(shift=1.0), steps),
    "shifted flow": lambda steps: flow_matching(FlowMatchEulerDiscreteScheduler(shift=3.0), steps),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 4, 28, 50])
def test_densities_of_all_noisy_steps_are_finite_and_known_from_the_states(
    name: str, schedule: str, steps: int
) -> None:
    levels = SCHEDULES[schedule](steps)
    chain = make_transitions(levels, name)
    tables = torch.stack([chain.state_weight, chain.output_weight, chain.std.float()])
    assert tables.isfinite().all()
    ends = levels.sigma[-1] == 0
    if ends:
        assert chain.std[-1] == 0
        torch.testing.assert_close(chain.of_state[-1:] * chain.sigma[-2] + chain.of_clean[-1:], levels.signal[-1:])
    if name not in ("dpm_2m", "sde_dpm_2m"):
        assert chain.stochastic_steps == tuple(range(steps - int(ends)))
    x, output, z = torch.randn(3, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for step in chain.stochastic_steps:
        at = torch.tensor([step])
        mean, std = chain.mean(x, output, at), chain.std_at(at, x)
        found = log_prob(mean + std * z, mean, std)
        expected = -0.5 * z.square().mean() - std.log() - 0.5 * math.log(2 * math.pi)
        torch.testing.assert_close(found, expected.view(1), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("timestep", "shift", "outside"),
    [(481, -1.9e-5, 0.08), (81, -8.2e-5, 0.44), (41, -1.6e-4, 0.72), (21, -8.7e-4, 0.98)],
)
def test_half_precision_would_break_ratios_long_before_the_last_step(
    timestep: int, shift: float, outside: float
) -> None:
    """F20: why states are float32. Log-probabilities of 64 states rounded to bfloat16, against a band of 1e-4."""
    chain = make_transitions(sd15(50), "ddpm")
    std = chain.std[chain.timesteps.tolist().index(timestep)].float()
    x_next, z = torch.randn(2, 64, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    mean = x_next - std * z
    off = log_prob(x_next.bfloat16().float(), mean, std) - log_prob(x_next, mean, std)
    wide = 4 * math.sqrt(2 / 64)  # four standard errors of the difference between two such draws
    assert float(off.mean()) == pytest.approx(shift, abs=wide * float(off.std()))
    spread = math.sqrt(outside * (1 - outside))
    assert float((off.abs() > 1e-4).float().mean()) == pytest.approx(outside, abs=wide * spread)
    assert float(off.mean()) < 0
