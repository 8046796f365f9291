"""The states that a chain visits, as a noise schedule gives them: how much image and how much noise is in each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
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

    def ending_at(self, sigma: float) -> NoiseLevels:
        """The same chain, but for its last state: the image, unscaled, with noise of that size.

        Raises:
            ValueError: If the state before the last has no more noise.
        """
        before = float(self.sigma[-2] / self.signal[-2])
        if sigma >= before:
            raise ValueError(
                f"policy.final_sigma is {sigma:g}, but the last of {len(self.timesteps)} steps begins where the noise "
                f"is {before:.4g} of the image; set policy.final_sigma below that."
            )
        ends = torch.tensor([[1.0], [sigma]], dtype=torch.float64)
        signal, noise = (
            torch.cat([table[:-1], end]) for table, end in zip((self.signal, self.sigma), ends, strict=True)
        )
        return replace(self, signal=signal, sigma=noise)
