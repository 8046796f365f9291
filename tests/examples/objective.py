"""REINFORCE, an example of an objective: the advantage times the log-probability of what was sampled.

    L = -mean_{samples, t} A log pi_theta(x_{t-1} | x_t, c)

Source: Williams, "Simple statistical gradient-following algorithms" (1992), on the chain of DPOK (arXiv 2305.16381).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel
from torch import Tensor

from actors.policy import Policy
from actors.transitions import Transitions
from learner.batch import Batch
from learner.likelihood import Likelihoods, backward
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks


class ReinforceConfig(BaseModel, frozen=True, extra="forbid"):
    """The score-function gradient."""

    asks: ClassVar[Asks] = Asks()

    name: Literal["reinforce"] = "reinforce"

    def build(self) -> Reinforce:
        """The objective."""
        return Reinforce(self)


class Reinforce(Objective):
    """The score-function gradient, see the head of this file."""

    config: ReinforceConfig

    def __init__(self, config: ReinforceConfig) -> None:
        self.config = config

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(chain.trainable_steps)

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        yield Part(torch.nonzero(batch.rewards.isfinite()).flatten(), torch.arange(len(batch.steps)))

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        advantages = batch.rewards[part.samples].to(policy.device)[:, None]

        def loss(likelihoods: Likelihoods) -> tuple[Tensor, dict[str, float]]:
            value = -(advantages * likelihoods.log_prob).mean()
            return value, {"loss": float(value.detach())}

        return backward(policy, batch, part.samples, part.columns, loss, micro_batch=micro_batch, ranks=ranks)
