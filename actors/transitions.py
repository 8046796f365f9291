"""The sampler's Gaussian transitions p(x_next | x_t), their log-probabilities and their KL.

A state is x = signal x0 + sigma eps, x0 the image and eps noise. The network's output o says of a state what the image
is, in the form that it was trained for (`Prediction`), and every chain here is affine in the state and that image,

    x_next = u_t x_t + w_t x0_theta(x_t) + std_t z,      z ~ N(0, I),

so a chain *is* three tables, made once in float64 (`actors/chains/`). The weights of state and *image* are finite also
where a chain begins with pure noise (signal 0), of which predicted noise says nothing. What is computed with is the
same in the network's output, x_next = a_t x_t + b_t o(x_t) + std_t z. Steps count from 0 (noise) to T - 1 (image);
"next" is the state after the step, one step less noisy. Solvers of second order add c_t times the image that was
predicted one step before: such a step has no density in the state alone, so it can be sampled and not trained on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from actors.chains import SOLVERS
from actors.chains.ddim import ddim
from actors.chains.flow_sde import flow_sde
from actors.chains.tables import Tables
from actors.noise_levels import NoiseLevels, Prediction

# float32 keeps entries of states, which are mostly below 4, in steps of at most 2^-22. Noise of 128 such steps is known
# to half a percent; of less, neither what was drawn nor its density is.
_LEAST_STD = 2.0**-15
_HEAVY = 0.25  # share of the chain's KL weight with which a step is left out by `adapted=auto`
_SMALL = 1e-3  # an eta at which every solver's noise is still proportional to it


@dataclass(frozen=True, eq=False)
class Transitions:
    """A chain of T Gaussian transitions.

    Args:
        timesteps: `(T,)`, see `NoiseLevels`.
        signal: `(T + 1,)` float64, how much of the image is in each state, from x_T (state 0) to the image (state T).
        sigma: `(T + 1,)` float64, how much noise.
        of_state: `(T,)` float64, u_t above.
        of_clean: `(T,)` float64, w_t above.
        std: `(T,)` float64; 0 makes a step deterministic.
        prediction: What the network predicts.
        of_previous: `(T,)` float64, c_t above; `None`: no step looks back.
        first_step: That rollouts begin with; those before it are never taken (image to image).
        adapted: In how many first steps an adapter acts; the others are the pretrained model's. `None`: in all.
    """

    timesteps: Tensor
    signal: Tensor
    sigma: Tensor
    of_state: Tensor
    of_clean: Tensor
    std: Tensor
    prediction: Prediction = "epsilon"
    of_previous: Tensor | None = None
    first_step: int = 0
    adapted: int | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def stochastic_steps(self) -> tuple[int, ...]:
        """The steps taken that have a density in the state."""
        noisy = self.std > 0 if self.of_previous is None else (self.std > 0) & (self.of_previous == 0)
        return tuple(step for step in torch.nonzero(noisy).flatten().tolist() if step >= self.first_step)

    @property
    def adapted_steps(self) -> int:
        """How many steps there are before the adapter is off, T where it never is."""
        return len(self) if self.adapted is None else self.adapted

    @property
    def trainable_steps(self) -> tuple[int, ...]:
        """The steps taken that have a density and an adapter; only these can be trained by likelihood ratios."""
        return tuple(step for step in self.stochastic_steps if step < self.adapted_steps)

    @cached_property
    def kl_weights(self) -> Tensor:
        """`(T,)` float64, b_t^2 / (2 std_t^2): what a squared change of the network's output costs in KL, in nats.

        Zero at steps without noise, where the KL of any change is infinite, and at steps that are never taken.
        """
        weights = self.output_weight.double() ** 2 / (2 * self.std**2)
        taken = (self.std > 0) & (torch.arange(len(self)) >= self.first_step)
        return torch.where(taken, weights, 0.0)

    @property
    def reverses_noising(self) -> bool:
        """Whether each step is the exact posterior of `noising`, given the image: DDPM's chain, and no other."""
        return self._is(ddim(self.signal, self.sigma, 1.0))

    @property
    def is_memoryless(self) -> bool:
        """Whether the image is independent of where the chain began, as far as that is pure noise, in many steps.

        DDPM's chain is, taken from its first step on, and so is Flow-SDE's with eta = sqrt(2), the same process by
        Euler-Maruyama's method (Domingo-Enrich et al., arXiv 2409.08861).
        """
        if self.first_step:
            return False
        return self.reverses_noising or self._is(flow_sde(self.signal, self.sigma, math.sqrt(2)), 1e-3)

    def _is(self, tables: Tables, tolerance: float = 1e-5) -> bool:
        looks_back = self.of_previous is not None and bool(self.of_previous.any())
        return (
            not looks_back
            and torch.allclose(self.std, tables.std, rtol=tolerance)
            and torch.allclose(self.of_state, tables.of_state, rtol=tolerance, atol=tolerance * 1e-3)
        )

    def noisy_within(self, first: int, end: int) -> Transitions:
        """The same chain, but that steps before `first` and from `end` on follow the probability-flow ODE.

        Raises:
            ValueError: If there are no such steps, or the chain is of second order.
        """
        tables = Tables(self.of_state, self.of_clean, self.std, self.of_previous)
        levels = NoiseLevels(self.timesteps, self.signal, self.sigma, self.prediction)
        of_state, of_clean, std, _ = _without_noise(levels, tables, (first, end))
        return replace(self, of_state=of_state, of_clean=of_clean, std=std)

    @cached_property
    def alpha_bar(self) -> Tensor:
        """`(T + 1,)` float32, signal^2 / (signal^2 + sigma^2): the image's share where both have a variance of 1."""
        return (self.signal**2 / (self.signal**2 + self.sigma**2)).float()

    @cached_property
    def state_weight(self) -> Tensor:
        """`(T,)` float32, a_t above."""
        return (self.of_state + self.of_clean * self._clean_tables[0][:-1]).float()

    @cached_property
    def output_weight(self) -> Tensor:
        """`(T,)` float32, b_t above."""
        return (self.of_clean * self._clean_tables[1][:-1]).float()

    @cached_property
    def _clean_tables(self) -> tuple[Tensor, Tensor]:
        # x0 = p x + q o at every state, float64
        if self.prediction == "epsilon":
            return 1 / self.signal, -self.sigma / self.signal
        if self.prediction == "v_prediction":
            return self.signal, -self.sigma
        if self.prediction == "velocity":
            return 1 / (self.signal + self.sigma), -self.sigma / (self.signal + self.sigma)
        return torch.zeros_like(self.signal), torch.ones_like(self.signal)

    @property
    def output_slope(self) -> Tensor:
        """`(T + 1,)` float64, |d x0 / d o| at each state: by how much an error of the network moves the image."""
        return self._clean_tables[1].abs()

    def mean(self, x: Tensor, prediction: Tensor, step: Tensor, previous: Tensor | None = None) -> Tensor:
        """Mean of x_next.

        Args:
            x: `(B, ...)` float32, the state.
            prediction: The same shape, the (guided) output of the network.
            step: `(B,)` int64 in [0, T).
            previous: The same shape, the image that was predicted one step before; `None`, as where a chain begins:
                the one that is predicted now, which makes the step one of first order.
        """
        mean = _at(self.state_weight, step, x) * x + _at(self.output_weight, step, x) * prediction.float()
        if self.of_previous is None:
            return mean
        seen = self.clean(x, prediction, step) if previous is None else previous
        return mean + _at(self.of_previous, step, x) * seen

    def noising(self, step: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and variance `(B, 1, ...)` of the noising step back: x_t given x_next is N(weight x_next, variance).

        Arguments as in `std_at`.
        """
        weight = self.signal[:-1] / self.signal[1:]
        return _at(weight, step, like), _at(self.sigma[:-1] ** 2 - (weight * self.sigma[1:]) ** 2, step, like)

    def noise(self, x: Tensor, prediction: Tensor, step: Tensor) -> Tensor:
        """The predicted noise, whatever the network predicts; arguments as in `mean`."""
        signal, sigma = _at(self.signal, step, x), _at(self.sigma, step, x)
        if self.prediction == "epsilon":
            return prediction
        if self.prediction == "v_prediction":
            return signal * prediction + sigma * x
        if self.prediction == "velocity":
            return (x + signal * prediction) / (signal + sigma)
        return (x - signal * prediction) / sigma

    def velocity(self, x: Tensor, prediction: Tensor, state: Tensor) -> Tensor:
        """The predicted noise less the predicted image, whatever the network predicts; arguments as in `clean`.

        At state T a model of noise is asked as at any other, though its image is the state.

        Raises:
            ValueError: Of a model of images, at a state without noise.
        """
        if self.prediction == "velocity":
            return prediction
        if self.prediction == "sample" and not self.sigma[state.cpu()].all():
            raise ValueError(
                "A network that predicts images says nothing of the noise where there is "
                "none, so its probability-flow ODE has no velocity at the image; set policy.final_sigma, to 0.02 for "
                "example."
            )
        of_state, of_output = (_at(table, state, x) for table in self._clean_tables)
        return self.noise(x, prediction, state) - (of_state * x + of_output * prediction)

    def clean(self, x: Tensor, prediction: Tensor, state: Tensor) -> Tensor:
        """The image that is predicted at a state.

        Args:
            x: `(B, ...)` float32, the state.
            prediction: The same shape, the (guided) output of the network.
            state: `(B,)` int64 in [0, T]; state T is the image itself.
        """
        of_state, of_output = (_at(table, state, x) for table in self._clean_tables)
        return torch.where(over(state == len(self), x), x, of_state * x + of_output * prediction)

    def score_weight(self, step: Tensor, like: Tensor) -> Tensor:
        """kappa of `d log p(x_next | x_t) / d x_next`: scores of two policies differ by kappa (o_1 - o_2).

        The sampled noise cancels in the difference, so this form keeps its precision where 1 / std is large.
        `(B, 1, ...)`; infinite at a step without noise.
        """
        return _at(self.output_weight / self.std.float() ** 2, step, like)

    def std_at(self, step: Tensor, like: Tensor) -> Tensor:
        """Standard deviations `(B, 1, ...)` on the device of `like`."""
        return _at(self.std, step, like)


def make_transitions(
    levels: NoiseLevels,
    solver: str = "ddim",
    eta: float | None = None,
    noisy: tuple[int, int] | None = None,
    final_sigma: float | None = None,
    adapted: int | Literal["auto"] | None = None,
) -> Transitions:
    """The chain that a solver makes of a noise schedule's states.

    Args:
        levels: The states.
        solver: One of `SOLVERS`.
        eta: Its amount of noise; `None` is the solver's own.
        noisy: The first step that may add noise and the one after the last; the others follow the probability-flow
            ODE. `None` are all.
        final_sigma: Noise of the last state, instead of what `levels` say.
        adapted: In how many first steps an adapter acts; `auto` goes by the KL weights (`adapted_before`).

    Raises:
        ValueError: If there is no such chain, or there is noise that float32 cannot resolve.
    """
    known, prediction, share = SOLVERS[solver], levels.prediction, _share(solver, eta)
    if final_sigma is not None:
        levels = levels.ending_at(final_sigma)
    if levels.signal[0] == 0 and prediction == "epsilon":
        raise ValueError(
            "The chain starts at pure noise (rescale_betas_zero_snr), where predicted noise says nothing of the image; "
            "such a model predicts v_prediction, or starts later with timestep_spacing=leading, both of which the "
            "model's scheduler/scheduler_config.json says."
        )

    def tables_of(share: float) -> Tables:
        tables = known.tables(levels.signal, levels.sigma, share)
        return tables if noisy is None else _without_noise(levels, tables, noisy)

    of_state, of_clean, std, of_previous = tables_of(share)
    chain = Transitions(levels.timesteps, levels.signal, levels.sigma, of_state, of_clean, std, prediction, of_previous)
    if not torch.stack([std.float(), chain.state_weight, chain.output_weight]).isfinite().all():
        raise ValueError(
            "The scheduler's betas leave a state within the chain without noise or without signal (alpha_bar is 1 or "
            "0), from where no transition is defined; look at them in the model's scheduler/scheduler_config.json."
        )
    if share > 0 or known.eta is None:
        _check_resolved(chain, solver, share, tables_of(_SMALL).std)
    return chain if adapted is None else replace(chain, adapted=_adapted(chain, adapted))


def _adapted(chain: Transitions, adapted: int | Literal["auto"]) -> int:
    if adapted == "auto":
        return adapted_before(chain.kl_weights)
    if adapted > len(chain):
        raise ValueError(
            f"policy.adapted_steps is {adapted}, but the chain has {len(chain)} steps; set it to at most that, or to "
            "null, which is all."
        )
    return adapted


def adapted_before(weights: Tensor) -> int:
    """How many steps come before the first one with more than a quarter of all KL weight; all, if there is none.

    Args:
        weights: `(T,)`, of `Transitions.kl_weights`.

    Raises:
        ValueError: If no step has a weight, or it is the first that has so much.
    """
    heavy = torch.nonzero(weights > _HEAVY * weights.sum()).flatten()
    if not weights.any():
        raise ValueError(
            "policy.adapted_steps=auto goes by what the steps' noise says of their KL, but no step adds noise; give a "
            "number, or null, which is all."
        )
    first = int(heavy[0]) if len(heavy) else len(weights)
    if not first:
        raise ValueError(
            f"policy.adapted_steps=auto leaves no step to the adapter: already the first of {len(weights)} has more "
            f"than {_HEAVY:.0%} of the chain's KL weight; give a number, or null, which is all."
        )
    return first


def _share(solver: str, eta: float | None) -> float:
    known = SOLVERS[solver]
    if eta is None:
        return 0.0 if known.eta is None else known.eta
    if known.eta is None:
        raise ValueError(
            f"policy.eta is {eta:g}, but the solver {solver} leaves no choice of its noise; set policy.eta to null, or "
            "policy.solver to ddim."
        )
    if eta > known.most:
        raise ValueError(f"policy.eta is {eta:g}, but the solver {solver} takes at most {known.most:.4g}.")
    return eta


def _check_resolved(chain: Transitions, solver: str, share: float, small: Tensor) -> None:
    """Refuse noise that float32 loses; `small` is the chain's `std` with an eta of `_SMALL`, if it has one."""
    floor = _LEAST_STD * (chain.signal**2 + chain.sigma**2).sqrt()[1:]  # states are as large as that
    lost = (small > 0) & (chain.std < floor)
    if not lost.any():
        return
    known = SOLVERS[solver]
    least = _SMALL * float((floor / small)[small > 0].max())  # so little noise is proportional to eta
    if known.eta is None or least > known.most:
        raise ValueError(
            f"The noise that {solver} adds in step {int(lost.nonzero()[0])} is lost in the rounding of float32, so "
            "that no density says what was drawn; set policy.steps lower, or policy.noisy_steps to leave the step out."
        )
    raise ValueError(
        f"With policy.eta={share:g} the noise of a step is lost in the rounding of float32, so that no density "
        f"says what was drawn; set policy.eta to 0, or to more than {least:.4g}."
    )


def _without_noise(levels: NoiseLevels, tables: Tables, noisy: tuple[int, int]) -> Tables:
    first, end = noisy
    steps = len(levels.timesteps)
    if not 0 <= first < end <= steps:
        raise ValueError(
            f"policy.noisy_steps is {list(noisy)}, but of {steps} steps they are two numbers a < b from 0 to {steps}: "
            "the first step that adds noise and the one after the last."
        )
    if tables.of_previous is not None:
        raise ValueError(
            "policy.noisy_steps mixes steps with and without noise, which solvers of second order do not; set "
            "policy.solver to one of first order, such as ddpm."
        )
    inside = (torch.arange(steps) >= first) & (torch.arange(steps) < end)
    still = ddim(levels.signal, levels.sigma, 0.0)
    return Tables(*(torch.where(inside, a, b) for a, b in zip(tables[:3], still[:3], strict=True)))


def log_prob(x_next: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Gaussian log-density of a transition, averaged over the dimensions: `(B,)` float32, nats per dimension.

    The mean, not the sum, is the convention of DDPO, DPOK, D3PO and their successors, and every published beta and clip
    range assumes it. No gradient flows into `x_next`: the sampled action is data.
    """
    x_next, mean, std = x_next.detach().float(), mean.float(), std.float()
    density = -((x_next - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    return density.flatten(1).mean(dim=1)


def kl(mean: Tensor, reference_mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(reference_mean, std^2)), averaged over dimensions: `(B,)` float32, nats per dimension."""
    difference = (mean.float() - reference_mean.detach().float()) ** 2
    return (difference / (2 * std.float() ** 2)).flatten(1).mean(dim=1)


def over(values: Tensor, like: Tensor) -> Tensor:
    """Values `(B,)`, one a sample, as `(B, 1, ...)` on the device of `like` `(B, ...)`, to be broadcast against it."""
    return values.to(like.device).view(-1, *[1] * (like.dim() - 1))


def _at(table: Tensor, step: Tensor, like: Tensor) -> Tensor:
    return over(table.float().to(like.device)[step.to(like.device)], like)
