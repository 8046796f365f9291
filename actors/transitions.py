"""The sampler's Gaussian transitions p(x_next | x_t), their log-probabilities and their KL.

Every sampler here is affine in the state and the network's output o (the predicted noise eps, or the velocity v),

    x_next = a_t x_t + b_t o(x_t) + std_t z,      z ~ N(0, I),

so a sampler *is* three tables of coefficients, made once in float64. It is eq. 12 and 16 of Song et al. (arXiv
2010.02502), x_next = sqrt(alpha_bar_next) x0 + sqrt(1 - alpha_bar_next - std^2) eps + std z, with

    eps:  x0 = (x - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar)
    v:    x0 = sqrt(alpha_bar) x - sqrt(1 - alpha_bar) v,      eps = sqrt(1 - alpha_bar) x + sqrt(alpha_bar) v

so that velocities may start at alpha_bar = 0 (zero terminal SNR), where noise says nothing of the image. With eta = 1
it is the posterior of Ho et al. (arXiv 2006.11239, eq. 7), which is what `ddpm` means. Steps count from 0 (noise) to
T - 1 (image); "next" is the state after the step, one step less noisy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import SchedulerMixin
from torch import Tensor

from actors.schedules import alpha_bars, check_scheduler, timesteps

# float32 keeps entries of states, which are mostly below 4, in steps of at most 2^-22. Noise of 128 such steps is known
# to half a percent; of less, neither what was drawn nor its density is.
_LEAST_STD = 2.0**-15


@dataclass(frozen=True)
class Transitions:
    """A chain of T Gaussian transitions.

    Args:
        timesteps: `(T,)` int64, training timesteps in the order of sampling.
        alpha_bar: `(T + 1,)` float32, cumulative alpha of each state, from x_T (state 0) to the image (state T).
        state_weight: `(T,)` float32, a_t above.
        noise_weight: `(T,)` float32, b_t above (negative): the weight of the network's output.
        std: `(T,)` float32; 0 makes a step deterministic.
        prediction: What the UNet predicts.
    """

    timesteps: Tensor
    alpha_bar: Tensor
    state_weight: Tensor
    noise_weight: Tensor
    std: Tensor
    prediction: Literal["epsilon", "v_prediction"] = "epsilon"

    def __len__(self) -> int:
        return len(self.timesteps)

    @property
    def stochastic_steps(self) -> tuple[int, ...]:
        """The steps that have a density; only these can be trained by likelihood ratios."""
        return tuple(torch.nonzero(self.std > 0).flatten().tolist())

    def mean(self, x: Tensor, prediction: Tensor, step: Tensor) -> Tensor:
        """Mean of x_next.

        Args:
            x: `(B, C, H, W)` float32, the state.
            prediction: `(B, C, H, W)`, the (guided) output of the UNet.
            step: `(B,)` int64 in [0, T).
        """
        return _at(self.state_weight, step, x) * x + _at(self.noise_weight, step, x) * prediction.float()

    def noise(self, x: Tensor, prediction: Tensor, step: Tensor) -> Tensor:
        """The predicted noise, whatever the UNet predicts."""
        if self.prediction == "epsilon":
            return prediction
        alpha_bar = _at(self.alpha_bar, step, x)
        return alpha_bar.sqrt() * prediction + (1 - alpha_bar).sqrt() * x

    def clean(self, x: Tensor, prediction: Tensor, state: Tensor) -> Tensor:
        """The image that is predicted at a state.

        Args:
            x: `(B, C, H, W)` float32, the state.
            prediction: The same shape, the (guided) output of the UNet.
            state: `(B,)` int64 in [0, T]; state T is the image itself.
        """
        alpha_bar = _at(self.alpha_bar, state, x)
        if self.prediction == "epsilon":
            clean = (x - (1 - alpha_bar).sqrt() * prediction) / alpha_bar.sqrt()
        else:
            clean = alpha_bar.sqrt() * x - (1 - alpha_bar).sqrt() * prediction
        return torch.where((state == len(self)).to(x.device).view(-1, 1, 1, 1), x, clean)

    def score_weight(self, step: Tensor, like: Tensor) -> Tensor:
        """kappa of `d log p(x_next | x_t) / d x_next`: scores of two policies differ by kappa (o_1 - o_2).

        The sampled noise cancels in the difference, so this form keeps its precision where 1 / std is large.
        `(B, 1, 1, 1)`; infinite at a step without noise.
        """
        return _at(self.noise_weight / self.std**2, step, like)

    def std_at(self, step: Tensor, like: Tensor) -> Tensor:
        """Standard deviations `(B, 1, 1, 1)` on the device of `like`."""
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
    now = table[visited]
    then = torch.cat([now[1:], end])
    if now[0] == 0 and prediction == "epsilon":
        raise ValueError(
            "The chain starts at pure noise (rescale_betas_zero_snr), where predicted noise says nothing of the image; "
            "such a model predicts v_prediction, or starts later with timestep_spacing=leading, both of which the "
            "model's scheduler/scheduler_config.json says."
        )
    share, full = 1.0 if kind == "ddpm" else eta, ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
    std = share * full
    # The clamp only absorbs rounding at a final alpha of 1, where both terms vanish.
    direction = (1 - then - std**2).clamp(min=0).sqrt()
    if prediction == "epsilon":
        state_weight = (then / now).sqrt()
        noise_weight = direction - (then * (1 - now) / now).sqrt()
    else:
        state_weight = (then * now).sqrt() + direction * (1 - now).sqrt()
        noise_weight = direction * now.sqrt() - (then * (1 - now)).sqrt()
    if not torch.stack([std, state_weight, noise_weight]).isfinite().all():
        raise ValueError(
            "The scheduler's betas leave a state within the chain without noise or without signal (alpha_bar is 1 or "
            "0), from where no transition is defined; look at them in the model's scheduler/scheduler_config.json."
        )
    # The full noise of a scheduler's float32 table is always enough: only a share can be too little.
    if 0 < share < (least := _LEAST_STD / min(full[full > 0].tolist(), default=math.inf)):
        raise ValueError(
            f"With policy.eta={eta:g} the noise of a step is lost in the rounding of float32, so that no density says "
            f"what was drawn; set policy.eta to 0, or to more than {least:.4g}."
        )
    return Transitions(
        visited,
        torch.cat([now, end]).float(),
        state_weight.float(),
        noise_weight.float(),
        std.float(),
        prediction,
    )


def log_prob(x_next: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Gaussian log-density of a transition, averaged over C, H and W: `(B,)` float32, nats per dimension.

    The mean, not the sum, is the convention of DDPO, DPOK, D3PO and their successors, and every published beta and clip
    range assumes it. No gradient flows into `x_next`: the sampled action is data.
    """
    x_next, mean, std = x_next.detach().float(), mean.float(), std.float()
    density = -((x_next - mean) ** 2) / (2 * std**2) - std.log() - 0.5 * math.log(2 * math.pi)
    return density.flatten(1).mean(dim=1)


def kl(mean: Tensor, reference_mean: Tensor, std: Tensor) -> Tensor:
    """KL(N(mean, std^2) || N(reference_mean, std^2)), averaged over C, H and W: `(B,)` float32, nats per dimension."""
    difference = (mean.float() - reference_mean.detach().float()) ** 2
    return (difference / (2 * std.float() ** 2)).flatten(1).mean(dim=1)


def _at(table: Tensor, step: Tensor, like: Tensor) -> Tensor:
    return table.to(like.device)[step.to(like.device)].view(-1, *[1] * (like.dim() - 1))
