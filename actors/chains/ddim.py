"""DDIM with any share of DDPM's noise, and DDPM itself, which is the exact posterior of the noising chain.

    x_next = signal_next x0 + k eps + std z,      eps = (x - signal x0) / sigma,     k^2 + std^2 = sigma_next^2
    std    = eta sigma_next sqrt(1 - rho^2),      rho = signal sigma_next / (signal_next sigma)

Eq. 12 and 16 of Song et al. (arXiv 2010.02502) without the assumption that variance is preserved; with eta = 1 the
posterior of Ho et al. (arXiv 2006.11239, eq. 7), which is also the memoryless process of flow matching (Domingo-Enrich
et al., arXiv 2409.08861), Euler-ancestral and SDE-DPM-Solver++ of first order; with eta = 0 the probability-flow ODE by
Euler's method in sigma / signal, which for flow matching is Euler's in time.
"""

from __future__ import annotations

from torch import Tensor

from actors.chains.tables import Tables, from_noise


def ddim(signal: Tensor, sigma: Tensor, eta: float) -> Tables:
    """The weights of each step.

    Args:
        signal: `(T + 1,)` float64, of every state from x_T to the image; positive but for the first.
        sigma: The same, of the noise; positive but for the last.
        eta: Share of DDPM's noise, in [0, 1].
    """
    rho = signal[:-1] * sigma[1:] / (signal[1:] * sigma[:-1])
    std = eta * sigma[1:] * (1 - rho**2).clamp(min=0).sqrt()
    # The clamps only absorb rounding: where no noise is new, and where all of it is.
    return from_noise(signal, sigma, (sigma[1:] ** 2 - std**2).clamp(min=0).sqrt(), std)


def ddpm(signal: Tensor, sigma: Tensor, eta: float) -> Tables:
    """The same with all of DDPM's noise, whatever `eta` says."""
    return ddim(signal, sigma, 1.0)
