"""The sampler's Gaussian transitions p(x_next | x_t), their log-probabilities and their KL.

A state is x = signal x0 + sigma eps, x0 the image and eps noise. The network's output o says of a state what the image
is, in the form that it was trained for (`Prediction`), and every chain here is affine in the state and that image,

    x_next = u_t x_t + w_t x0_theta(x_t) + std_t z,      z ~ N(0, I),

so a chain *is* three tables, made once in float64 (`actors/chains/`). The weights of state and *image* are finite also
where a chain begins with pure noise (signal 0), of which predicted noise says nothing. What is computed with is the
same in the network's output, x_next = a_t x_t + b_t o(x_t) + std_t z. Steps count from 0 (noise) to T - 1 (image);
"next" is the state after the step, one step less noisy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from actors.chains.ddim import ddim
from actors.schedules import alpha_bars, check_scheduler, timesteps

# float32 keeps entries of states, which are mostly below 4, in steps of at most 2^-22. Noise of 128 such steps is known
# to half a percent; of less, neither what was drawn nor its density is.
_LEAST_STD = 2.0**-15
# What a network says of a state: its noise, v = signal eps - sigma x0, or its image.
Prediction = Literal["epsilon", "v_prediction", "sample"]


@dataclass(frozen=True, eq=False)
class Transitions:
    """A chain of T Gaussian transitions.

    Args:
        timesteps: `(T,)` training timesteps in the order of sampling.
        signal: `(T + 1,)` float64, how much of the image is in each state, from x_T (state 0) to the image (state T).
        sigma: `(T + 1,)` float64, how much noise.
        of_state: `(T,)` float64, u_t above.
        of_clean: `(T,)` float64, w_t above.
        std: `(T,)` float64; 0 makes a step deterministic.
        prediction: What the network predicts.
    """

    timesteps: Tensor
    signal: Tensor
    sigma: Tensor
    of_state: Tensor
    of_clean: Tensor
    std: Tensor
    prediction: Prediction = "epsilon"

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def stochastic_steps(self) -> tuple[int, ...]:
        """The steps that have a density; only these can be trained by likelihood ratios."""
        return tuple(torch.nonzero(self.std > 0).flatten().tolist())

    @cached_property
    def alpha_bar(self) -> Tensor:
        """`(T + 1,)` float32, signal^2: the share of the image in each state's variance, where that is preserved."""
        return (self.signal**2).float()

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
        return torch.zeros_like(self.signal), torch.ones_like(self.signal)

    def mean(self, x: Tensor, prediction: Tensor, step: Tensor) -> Tensor:
        """Mean of x_next.

        Args:
            x: `(B, ...)` float32, the state.
            prediction: The same shape, the (guided) output of the network.
            step: `(B,)` int64 in [0, T).
        """
        return _at(self.state_weight, step, x) * x + _at(self.output_weight, step, x) * prediction.float()

    def noise(self, x: Tensor, prediction: Tensor, step: Tensor) -> Tensor:
        """The predicted noise, whatever the network predicts; arguments as in `mean`."""
        signal, sigma = _at(self.signal, step, x), _at(self.sigma, step, x)
        if self.prediction == "epsilon":
            return prediction
        if self.prediction == "v_prediction":
            return signal * prediction + sigma * x
        return (x - signal * prediction) / sigma

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
    scheduler: SchedulerMixin, steps: int, kind: Literal["ddim", "ddpm"] = "ddim", eta: float = 1.0
) -> Transitions:
    """The chain that a diffusers scheduler config describes, with `steps` steps.

    Args:
        scheduler: Of one of the classes in `actors.schedules.VARIANCE_PRESERVING`.
        steps: Number of denoising steps T.
        kind: The transition.
        eta: Share of the DDPM noise in `ddim`: 1 is as stochastic as DDPM, 0 deterministic. `ddpm` has no eta.

    Raises:
        ValueError: If the scheduler describes another process, or one that has no such chain, or there is noise that
            float32 cannot resolve.
    """
    check_scheduler(scheduler)
    visited = timesteps(scheduler, steps)
    table, end = alpha_bars(scheduler)
    prediction = scheduler.config.prediction_type
    alpha_bar = torch.cat([table[visited], end])
    if alpha_bar[0] == 0 and prediction == "epsilon":
        raise ValueError(
            "The chain starts at pure noise (rescale_betas_zero_snr), where predicted noise says nothing of the image; "
            "such a model predicts v_prediction, or starts later with timestep_spacing=leading, both of which the "
            "model's scheduler/scheduler_config.json says."
        )
    signal, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    share = 1.0 if kind == "ddpm" else eta
    chain = Transitions(visited, signal, sigma, *ddim(signal, sigma, share), prediction)
    if not torch.stack([chain.std.float(), chain.state_weight, chain.output_weight]).isfinite().all():
        raise ValueError(
            "The scheduler's betas leave a state within the chain without noise or without signal (alpha_bar is 1 or "
            "0), from where no transition is defined; look at them in the model's scheduler/scheduler_config.json."
        )
    # The full noise of a scheduler's float32 table is always enough: only a share can be too little.
    *_, full = ddim(signal, sigma, 1.0)
    if 0 < share < (least := _LEAST_STD / min(full[full > 0].tolist(), default=math.inf)):
        raise ValueError(
            f"With policy.eta={eta:g} the noise of a step is lost in the rounding of float32, so that no density says "
            f"what was drawn; set policy.eta to 0, or to more than {least:.4g}."
        )
    return chain


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
