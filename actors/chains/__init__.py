"""How a chain steps: one file a solver, each a plain function from noise levels to the tables of `Transitions`.

A file takes any signal and sigma, not only those with signal^2 + sigma^2 = 1 (variance preserving) or
signal + sigma = 1 (flow matching): a state may be rescaled, and the chain with it, so a solver of one kind of model
runs the other too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from actors.chains.cps import cps
from actors.chains.ddim import ddim, ddpm
from actors.chains.dpm import dpm_2m, sde_dpm_2m
from actors.chains.flow_sde import dance_sde, flow_sde
from actors.chains.tables import Tables


class Solver(NamedTuple):
    """A way to step."""

    tables: Callable[[Tensor, Tensor, float], Tables]  # of signal, sigma (T + 1,) float64 and eta
    eta: float | None = None  # what `policy.eta=null` means; `None`: there is no choice of it
    most: float = 1.0  # that eta may be


SOLVERS = {
    "ddim": Solver(ddim, 1.0),
    "ddpm": Solver(ddpm),
    "dpm_2m": Solver(dpm_2m),
    "sde_dpm_2m": Solver(sde_dpm_2m),
    "flow_sde": Solver(flow_sde, 0.7, most=math.sqrt(2)),
    "dance_sde": Solver(dance_sde, 0.3),
    "cps": Solver(cps, 0.8),
}
