"""A chain that can be gone through by hand: x_next = p x + q theta x in three steps without noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from actors.transitions import Transitions
from learner.batch import Batch, collate
from learner.objectives import Objective

STATE, OUTPUT, THETA = (0.9, 0.8, 0.7), (0.2, 0.3, 0.4), 0.5


class LinearPolicy(Policy):
    """The network is theta x, and predicts images."""

    def __init__(self) -> None:
        levels = torch.linspace(0.5, 1, 4, dtype=torch.float64)
        of_state, of_clean = (torch.tensor(table, dtype=torch.float64) for table in (STATE, OUTPUT))
        self.transitions = Transitions(
            torch.zeros(3), levels, (1 - levels**2).sqrt(), of_state, of_clean, torch.zeros(3).double(), "sample"
        )
        self.device, self.latent_shape = torch.device("cpu"), (1, 1, 1)
        self.theta = nn.Parameter(torch.tensor(THETA))

    @property
    def half_precision(self) -> bool:
        return False

    @property
    def passes(self) -> int:
        return 1

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [self.theta]

    def encode(self, prompts: Sequence[str | None]) -> Conditioning:
        return Conditioning(text=torch.zeros(len(prompts), 1, 1))

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def predict(self, x: Tensor, step: Tensor, conditioning: Conditioning, guided: bool = True) -> Tensor:
        return self.theta * x


class Brightness:
    """The image itself as its reward."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.flatten(1).sum(dim=1)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self.score(images, prompts), torch.ones_like(images)


def gradient_in_theta(objective: Objective, columns: Sequence[Sequence[int]] | None = None) -> Tensor:
    """By how much the image rises with theta, for a chain that starts at 1, as an objective's update says.

    Args:
        objective: What is made of a batch of one sample.
        columns: Instead of those of its part.
    """
    policy = LinearPolicy()
    objective.attach(policy, Brightness())
    plan = objective.plan(policy.transitions)
    request = Request(0, 0, ("a",), (0,), (0,), plan.stored_steps, clean=plan.clean)
    batch: Batch = collate([rollout(policy, request)[1]], np.zeros(1, np.float32))
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    if columns is not None:
        part = type(part)(part.samples, torch.tensor(columns))
    objective.backward(policy, batch, part, 4)
    assert policy.theta.grad is not None
    return -policy.theta.grad / rollout(policy, Request(0, 0, ("a",), (0,), (0,), (0,)))[1].latents.item()
