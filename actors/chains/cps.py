"""Flow-CPS: a fixed share of the next state's noise is new, so that each state has exactly the noise it should have.

    x_next = signal_next x0 + sigma_next ( cos(eta pi / 2) eps + sin(eta pi / 2) z ),     eps = (x - signal x0) / sigma

eta = 0 is the probability-flow ODE, eta = 1 forgets the predicted noise. It adds no noise where it ends at the image.

Source: Wang and Yu, "Coefficients-Preserving Sampling for Reinforcement Learning with Flow Matching" (arXiv
2509.05952). Its code leaves 1 / (2 std^2) out of the log-density; here it is the density's own.
"""

from __future__ import annotations

import math

from torch import Tensor

from actors.chains.tables import Tables, from_noise


def cps(signal: Tensor, sigma: Tensor, eta: float) -> Tables:
    """The weights of each step.

    Args:
        signal: `(T + 1,)` float64, of every state from x_T to the image.
        sigma: The same, of the noise; positive but for the last.
        eta: How much of the noise is new, in [0, 1].
    """
    angle = eta * math.pi / 2
    return from_noise(signal, sigma, sigma[1:] * math.cos(angle), sigma[1:] * math.sin(angle))
