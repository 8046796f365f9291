"""A one-dimensional flow model whose velocity is exact: the analytic world's policy on any chain, for tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from actors.conditioning import Conditioning
from actors.noise_levels import NoiseLevels
from actors.transitions import Transitions, make_transitions, over
from benchmarks.analytic_world import AnalyticPolicy, PerStep

MEAN, VARIANCE = 0.5, 0.36  # of the data


class AnalyticFlow(AnalyticPolicy):
    """A policy of Gaussian data that trains the velocity of flow matching by a straight line at each step.

    Args:
        transitions: Of a network of velocities or of noise.
        dimensions: D.
    """

    def __init__(self, transitions: Transitions, dimensions: int = 1) -> None:
        self.transitions = transitions
        self.device, self.latent_shape = torch.device("cpu"), (1, 1, dimensions)
        self.drift = PerStep(len(transitions))
        self._acting: PerStep | None = self.drift

    def predict(self, x: Tensor, step: Tensor, conditioning: Conditioning, guided: bool = True) -> Tensor:
        self.evaluations += len(x)
        chain = self.transitions
        signal, sigma = (over(table.float()[step], x) for table in (chain.signal, chain.sigma))
        image = (signal * VARIANCE * x + sigma**2 * MEAN) / (signal**2 * VARIANCE + sigma**2)
        if self._acting is not None:
            image = image - sigma / (signal + sigma) * self._acting(x, step)
        noise = (x - signal * image) / sigma
        return noise if chain.prediction == "epsilon" else noise - image


def flow_chain(steps: int, solver: str, eta: float | None = None, last: float = 0.0, **settings: Any) -> Transitions:
    """Flow matching's chain in even steps from pure noise to a state with the noise `last`."""
    sigma = torch.linspace(1, last, steps + 1, dtype=torch.float64)
    levels = NoiseLevels(1000 * sigma[:-1].float(), 1 - sigma, sigma, "velocity")
    return make_transitions(levels, solver, eta, **settings)


def moments(transitions: Transitions) -> tuple[list[float], list[float], list[float]]:
    """Of the chain x_next = A x + b + noise of the exact model: A, b and the variance of the noise at each step."""
    factors, shifts = [], []
    for step in range(len(transitions)):
        signal, sigma = float(transitions.signal[step]), float(transitions.sigma[step])
        spread = signal**2 * VARIANCE + sigma**2
        of_clean = float(transitions.of_clean[step])
        factors.append(float(transitions.of_state[step]) + of_clean * signal * VARIANCE / spread)
        shifts.append(of_clean * sigma**2 * MEAN / spread)
    return factors, shifts, (transitions.std**2).tolist()
