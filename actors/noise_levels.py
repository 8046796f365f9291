"""The states that a chain visits, as a noise schedule gives them: how much image and how much noise is in each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

# What a network says of a state signal x0 + sigma eps: its noise eps, v = signal eps - sigma x0, the velocity
# u = eps - x0 of flow matching, or its image x0.
Prediction = Literal["epsilon", "v_prediction", "velocity", "sample"]


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """The states of a chain of T steps, from noise (state 0) to the image (state T).

    Args:
        timesteps: `(T,)` of states 0 to T - 1 as the family's network is told them: integers of a table of training
            timesteps, or 1000 sigma of flow matching as float32.
        signal: `(T + 1,)` float64, how much of the image is in each state.
        sigma: `(T + 1,)` float64, how much noise; 0 is the image alone.
        prediction: What the network predicts.
    """

    timesteps: Tensor
    signal: Tensor
    sigma: Tensor
    prediction: Prediction
