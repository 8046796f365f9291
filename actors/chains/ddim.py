"""DDIM with any share of DDPM's noise, for processes that preserve variance (signal^2 + sigma^2 = 1).

    x_next = signal_next x0 + sqrt(sigma_next^2 - std^2) eps + std z,      eps = (x - signal x0) / sigma
    std    = eta sqrt( (sigma_next / sigma)^2 (1 - (signal / signal_next)^2) )

Eq. 12 and 16 of Song et al. (arXiv 2010.02502); with eta = 1 the posterior of Ho et al. (arXiv 2006.11239, eq. 7).
"""

from __future__ import annotations

from torch import Tensor


def ddim(signal: Tensor, sigma: Tensor, eta: float) -> tuple[Tensor, Tensor, Tensor]:
    """The weight of the state, the weight of the predicted image and the deviation of each step, `(T,)` float64.

    Args:
        signal: `(T + 1,)` float64, of every state from x_T to the image.
        sigma: The same, of the noise; positive but for the image's.
        eta: Share of DDPM's noise.
    """
    now, then = signal[:-1] ** 2, signal[1:] ** 2
    std = eta * ((1 - then) / (1 - now) * (1 - now / then)).sqrt()
    # The clamp only absorbs rounding at a final alpha of 1, where both terms vanish.
    of_state = (1 - then - std**2).clamp(min=0).sqrt() / sigma[:-1]
    return of_state, signal[1:] - of_state * signal[:-1], std
