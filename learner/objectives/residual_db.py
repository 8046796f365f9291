"""Residual DB: detailed balance of scalar flows relative to the pretrained chain. Samples p#(x) exp(beta r(x)).

    L = ( f_t(x_t) + log P_F(x_next | x_t) - log P_F#(x_next | x_t) - f_next(x_next) )^2

with f as in `dag_db`, now the log of F / F#: the pretrained policy takes the noising kernel's place. It needs no reward
gradient; it is the baseline that shows what the gradient brings.

Source: the baseline of Liu et al. (ICLR 2025, arXiv 2412.07775).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.transitions import log_prob
from learner.objectives.dag_db import DAGDB, DAGDBConfig
from learner.objectives.objective import Asks


class ResidualDBConfig(DAGDBConfig, frozen=True, extra="forbid"):
    """Detailed balance with a scalar flow, relative to the pretrained model."""

    asks: ClassVar[Asks] = Asks(reward="images", noise="everywhere")

    name: Literal["residual_db"] = "residual_db"  # type: ignore[assignment]
    guided_guess: bool = Field(
        True, description="Predict the image whose reward a flow looks forward to with guidance, as the policy acts."
    )

    def build(self) -> ResidualDB:
        """The objective."""
        return ResidualDB(self)


class ResidualDB(DAGDB):
    """Residual detailed balance, see the head of this file."""

    def other_log_prob(
        self, policy: Policy, x: Tensor, x_next: Tensor, step: Tensor, conditioning: Conditioning
    ) -> Tensor:
        transitions = policy.transitions
        with torch.no_grad(), policy.using(None):
            mean = transitions.mean(x, policy.predict(x, step, conditioning), step)
        return log_prob(x_next, mean, transitions.std_at(step, x))
