"""Residual nabla-DB: samples the pretrained model's images tilted by the reward, p#(x) exp(beta r(x)).

The detailed balance of the pretrained chain, subtracted from the policy's, removes the noising kernel; what remains is
the residual flow score G = grad log (F / F#), the gradient of a soft value function:

    forward    d log P_F / d x_next - eta d log P_F# / d x_next = G_next(x_next)    trains the policy
    reverse    eta d log P_F# / d x_t - d log P_F / d x_t       = G_t(x_t)          trains the flow function

with G as in `nabla_db`. At eta = 1 both policies see the same sampled noise, which cancels:

    d log P_F / d x_next - d log P_F# / d x_next = u = kappa_t (eps_theta - eps_#)
    E[ d log P_F# / d x_t | x_t ] = (d mu_# / d x_t)^T u,      E[ d log P_F / d x_t | x_t ] = 0

`expected_scores` (the default) uses these forms: the same fixed point without the variance. eta is the prior's
strength; for eta other than 1 the method is not exact: a policy of fixed variance finds the mean of p#^eta exp(beta r)
and not its variance.

Source: as `nabla_db`.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from actors.policy import Policy
from learner.objectives.nabla_db import NablaDB, NablaDBConfig, Piece
from learner.objectives.objective import Asks


class ResidualNablaDBConfig(NablaDBConfig, frozen=True, extra="forbid"):
    """Gradient-informed detailed balance relative to the pretrained model."""

    asks: ClassVar[Asks] = Asks(reward="gradients", noise="everywhere")

    name: Literal["residual_nabla_db"] = "residual_nabla_db"  # type: ignore[assignment]
    prior_strength: float = Field(1.0, ge=0, description="Exponent eta of the pretrained model in the target.")

    def build(self) -> ResidualNablaDB:
        """The objective."""
        return ResidualNablaDB(self)


class ResidualNablaDB(NablaDB):
    """Residual gradient-informed detailed balance, see the head of this file."""

    config: ResidualNablaDBConfig

    def scores(self, policy: Policy, piece: Piece) -> tuple[Tensor, Tensor | None]:
        transitions, eta = policy.transitions, self.config.prior_strength
        with policy.using(None), torch.set_grad_enabled(self._reverses):
            # The whole way to the input stays inside the block, where the adapters are off.
            x = piece.x.detach().requires_grad_(self._reverses)
            prediction = policy.predict(x, piece.step, piece.conditioning)
            mean, pretrained = transitions.mean(x, prediction, piece.step), prediction.detach()
            weight = transitions.score_weight(piece.step, x)
            sampled = (piece.x_next - mean).detach() / piece.std**2  # minus d log P_F# / d x_next
            cotangent = weight * (piece.prediction.detach() - pretrained) if self.config.expected_scores else sampled
            reverse = torch.autograd.grad(mean, x, cotangent)[0] if self._reverses else None
        difference = weight * (piece.prediction - pretrained)
        if self.config.expected_scores:
            return eta * difference, None if reverse is None else eta * reverse
        # The published form: eta also multiplies the policy's own reverse score, whose mean is zero.
        forward = difference - (1 - eta) * sampled
        return forward, None if reverse is None else eta * (reverse - self.reverse_score(piece))
