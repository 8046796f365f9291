"""What a solver's function returns."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Tables(NamedTuple):
    """The weights of each step, `(T,)` float64."""

    of_state: Tensor  # of x_t
    of_clean: Tensor  # of the image that is predicted at x_t
    std: Tensor  # of the noise that is added
    of_previous: Tensor | None = None  # of the image that was predicted one step before; `None`: nowhere


def from_noise(signal: Tensor, sigma: Tensor, of_noise: Tensor, std: Tensor) -> Tables:
    """The tables of x_next = signal_next x0 + of_noise eps + std z, where eps = (x - signal x0) / sigma.

    Args:
        signal: `(T + 1,)` float64, of every state.
        sigma: The same, of the noise; positive but for the last.
        of_noise: `(T,)` float64, weight of the noise that is predicted.
        std: `(T,)` float64, of the noise that is added.
    """
    of_state = of_noise / sigma[:-1]
    return Tables(of_state, signal[1:] - of_state * signal[:-1], std)
