"""The sampler's Gaussian transitions p(x_next | x_t), their log-probabilities and their KL.

Every sampler here is affine in the state and the predicted noise,

    x_next = a_t x_t + b_t eps(x_t) + std_t z,      z ~ N(0, I),

so a sampler *is* three tables of coefficients, made once in float64. `ddim` is eq. 12 and 16 of Song et al.
(arXiv 2010.02502), `ddpm` the posterior of Ho et al. (arXiv 2006.11239, eq. 7); with eta = 1 they are the same
transition. Steps count from 0 (noise) to T - 1 (image); "next" is the state after the step, one step less noisy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from diffusers import DDIMScheduler
from torch import Tensor


@dataclass(frozen=True)
class Transitions:
    """A chain of T Gaussian transitions.

    Args:
        timesteps: `(T,)` int64, training timesteps in the order of sampling.
        alpha_bar: `(T + 1,)` float32, cumulative alpha of each state, from x_T (state 0) to the image (state T).
        state_weight: `(T,)` float32, a_t above.
        noise_weight: `(T,)` float32, b_t above (negative).
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
        eps = self.noise(x, prediction.float(), step)
        return _at(self.state_weight, step, x) * x + _at(self.noise_weight, step, x) * eps

    def noise(self, x: Tensor, prediction: Tensor, step: Tensor) -> Tensor:
        """The predicted noise, whatever the UNet predicts."""
        if self.prediction == "epsilon":
            return prediction
        alpha_bar = _at(self.alpha_bar, step, x)
        return alpha_bar.sqrt() * prediction + (1 - alpha_bar).sqrt() * x

    def clean(self, x: Tensor, noise: Tensor, state: Tensor) -> Tensor:
        """The image that is predicted at a state: x0 = (x - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar).

        Args:
            x: `(B, C, H, W)` float32, the state.
            noise: The same shape, the predicted noise.
            state: `(B,)` int64 in [0, T]; state T is the image itself.
        """
        alpha_bar = _at(self.alpha_bar, state, x)
        clean = (x - (1 - alpha_bar).sqrt() * noise) / alpha_bar.sqrt()
        return torch.where((state == len(self)).to(x.device).view(-1, 1, 1, 1), x, clean)

    def score_weight(self, step: Tensor, like: Tensor) -> Tensor:
        """kappa of `d log p(x_next | x_t) / d x_next`: scores of two policies differ by kappa (eps_1 - eps_2).

        The sampled noise cancels in the difference, so this form keeps its precision where 1 / std is large.
        `(B, 1, 1, 1)`; infinite at a step without noise.
        """
        return _at(self.noise_weight / self.std**2, step, like)

    def std_at(self, step: Tensor, like: Tensor) -> Tensor:
        """Standard deviations `(B, 1, 1, 1)` on the device of `like`."""
        return _at(self.std, step, like)


def make_transitions(
    scheduler: DDIMScheduler, steps: int, kind: Literal["ddim", "ddpm"] = "ddim", eta: float = 1.0
) -> Transitions:
    """The chain that a diffusers scheduler config describes, with `steps` steps.

    Args:
        scheduler: A DDIM scheduler (`DDIMScheduler.from_config` makes one of any variance-preserving scheduler).
        steps: Number of denoising steps T.
        kind: The transition.
        eta: Share of the DDPM noise in `ddim`: 1 is as stochastic as DDPM, 0 deterministic. `ddpm` has no eta.

    Raises:
        ValueError: If the scheduler clips its predictions (then no transition is Gaussian) or predicts something else
            than noise or velocity.
    """
    config = scheduler.config
    if config.clip_sample or config.thresholding:
        raise ValueError(
            "The scheduler clips or thresholds x0, so its transitions have no density; set clip_sample and "
            "thresholding to false in the model's scheduler_config.json."
        )
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise ValueError(f"The scheduler predicts {config.prediction_type!r}; only epsilon and v_prediction are known.")
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.to(torch.int64).cpu()
    alpha_bars = scheduler.alphas_cumprod.double()
    now = alpha_bars[timesteps]
    then = torch.cat([alpha_bars[timesteps[1:]], scheduler.final_alpha_cumprod.double().reshape(1)])
    if kind == "ddpm":
        beta = 1 - now / then
        std = ((1 - then) / (1 - now) * beta).sqrt()
        clean_weight = then.sqrt() * beta / (1 - now)
        state_weight = (now / then).sqrt() * (1 - then) / (1 - now) + clean_weight / now.sqrt()
        noise_weight = -clean_weight * ((1 - now) / now).sqrt()
    else:
        std = eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
        state_weight = (then / now).sqrt()
        # The clamp only absorbs rounding at a final alpha of 1, where both terms vanish.
        noise_weight = (1 - then - std**2).clamp(min=0).sqrt() - (then * (1 - now) / now).sqrt()
    return Transitions(
        timesteps,
        torch.cat([now, then[-1:]]).float(),
        state_weight.float(),
        noise_weight.float(),
        std.float(),
        config.prediction_type,
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
