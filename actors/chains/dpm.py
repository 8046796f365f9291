"""DPM-Solver++ of second order, multistep: the probability-flow ODE (`dpm_2m`) and DDPM's process (`sde_dpm_2m`).

With lambda = log(signal / sigma), h its growth over the step and h_before over the one before, rho = e^-h,

    x_next = E signal_next x_mid + (sigma_next / sigma) x,                              E = 1 - rho       (dpm_2m)
    x_next = E signal_next x_mid + (sigma_next / sigma) rho x + sigma_next sqrt(E) z,   E = 1 - rho^2     (sde_dpm_2m)
    x_mid  = x0 + h / (2 h_before) (x0 - x0_before)

where x0_before is the image that was predicted one step before: the midpoint rule, diffusers' default. Without
looking back they are of first order, `ddim` without noise and `ddpm`; so are the first step, the one after pure noise
(h_before is infinite) and the one that ends at the image, which is x_next = x0.

Source: Lu et al., DPM-Solver++ (arXiv 2211.01095, algorithm 2 and appendix on SDEs).
"""

from __future__ import annotations

import torch
from torch import Tensor

from actors.chains.tables import Tables


def dpm_2m(signal: Tensor, sigma: Tensor, eta: float) -> Tables:
    """The weights of each step without noise, whatever `eta` says.

    Args:
        signal: `(T + 1,)` float64, of every state from x_T to the image; positive but for the first.
        sigma: The same, of the noise; positive but for the last.
        eta: Not used.
    """
    of_state = sigma[1:] / sigma[:-1]
    return _tables(signal, sigma, of_state, 1 - _rho(signal, sigma), torch.zeros_like(of_state))


def sde_dpm_2m(signal: Tensor, sigma: Tensor, eta: float) -> Tables:
    """The same with DDPM's noise."""
    rho = _rho(signal, sigma)
    renewed = 1 - rho**2
    return _tables(signal, sigma, sigma[1:] / sigma[:-1] * rho, renewed, sigma[1:] * renewed.clamp(min=0).sqrt())


def _tables(signal: Tensor, sigma: Tensor, of_state: Tensor, renewed: Tensor, std: Tensor) -> Tables:
    growth = (signal.log() - sigma.log()).diff()  # infinite from pure noise and to the image
    before = torch.cat([growth.new_full((1,), torch.inf), growth[:-1]])
    back = torch.where(growth.isfinite(), renewed * growth / (2 * before), 0.0)
    of_previous = -signal[1:] * back if back.any() else None
    return Tables(of_state, signal[1:] * (renewed + back), std, of_previous)


def _rho(signal: Tensor, sigma: Tensor) -> Tensor:
    return signal[:-1] * sigma[1:] / (signal[1:] * sigma[:-1])
