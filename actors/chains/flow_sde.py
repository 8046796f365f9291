"""Flow-SDE: Euler-Maruyama steps of flow matching's reverse process, with Flow-GRPO's noise or DanceGRPO's.

In flow coordinates, where a state is y = x / (signal + sigma) at the time s = sigma / (signal + sigma),

    y_next = (1 - s_next) x0 + k eps + q z,      q^2 = g^2 (s - s_next),      k = s_next - q^2 / (2 s)
    g = eta sqrt(s / (1 - s))  (Flow-GRPO),      g = eta  (DanceGRPO)

Both keep the image's share and add a little more noise than a state should have, k^2 + q^2 > s_next^2. From pure noise
(s = 1) Flow-GRPO's g has 1 - s_next in place of 1 - s, as its code has; so it has from a state that is nearer to pure
noise than half a step, such as the first of a scheduler that begins at .999. A step that ends at the image would leave
it noisy, and has no proper density there: it goes to the predicted image without noise. Flow-GRPO's eta = sqrt(2) is
the memoryless process, whose noise is DDPM's in the limit of many steps.

Sources: Liu et al., Flow-GRPO (arXiv 2505.05470); Xue et al., DanceGRPO (arXiv 2505.07818); and their code.
"""

from __future__ import annotations

import torch
from torch import Tensor

from actors.chains.tables import Tables, from_noise


def flow_sde(signal: Tensor, sigma: Tensor, eta: float) -> Tables:
    """The weights of each step, with Flow-GRPO's noise.

    Args:
        signal: `(T + 1,)` float64, of every state from x_T to the image.
        sigma: The same, of the noise; positive but for the last.
        eta: Amount of noise, in [0, sqrt(2)].
    """
    now, then = _times(signal, sigma)
    pure = 1 - now < (now - then) / 2
    return _tables(signal, sigma, eta * (now / (1 - torch.where(pure, then, now))).sqrt())


def dance_sde(signal: Tensor, sigma: Tensor, eta: float) -> Tables:
    """The same with DanceGRPO's noise, of the same rate at all times."""
    return _tables(signal, sigma, torch.full_like(signal[1:], eta))


def _tables(signal: Tensor, sigma: Tensor, rate: Tensor) -> Tables:
    now, then = _times(signal, sigma)
    variance = torch.where(then > 0, rate**2 * (now - then), 0.0)
    of_noise = torch.where(then > 0, then - variance / (2 * now), 0.0)
    size = (signal + sigma)[1:]
    return from_noise(signal, sigma, size * of_noise, size * variance.sqrt())


def _times(signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Of the states before and after each step, `(T,)` each."""
    time = sigma / (signal + sigma)
    return time[:-1], time[1:]
