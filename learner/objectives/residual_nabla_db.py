"""Residual nabla-DB: samples the pretrained model's images tilted by the reward, p#(x) exp(beta r(x)).

The detailed balance of the pretrained chain, subtracted from the policy's, removes the noising kernel; what remains is
the residual flow score G = grad log (F / F#), the gradient of a soft value function:

    forward    d log P_F / d x_next - eta d log P_F# / d x_next = G_next(x_next)    trains the policy
    reverse    eta d log P_F# / d x_t - d log P_F / d x_t       = G_t(x_t)          trains the flow function

with G as in `nabla_db`. At eta = 1 both policies see the same sampled noise, which cancels:

    d log P_F / d x_next - d log P_F# / d x_next = u = kappa_t (eps_theta - eps_#)
    E[ d log P_F# / d x_t | x_t ] = (d mu_# / d x_t)^T u,      E[ d log P_F / d x_t | x_t ] = 0

The guess in G is of the policy's predicted image, or of the pretrained model's (`guess_by=pretrained`). With the flow
function both have the same fixed point. Without it the latter is the better one: exp(beta r) is averaged over what the
pretrained chain makes of a state, and where the reward is linear in the image this guess is right to first order in
beta. The policy's own image has moved to where the reward is already high, and often flat.

`expected_scores` (the default) uses these forms: the same fixed point without the variance. eta is the prior's
strength; for eta other than 1 the method is not exact: a policy of fixed variance finds the mean of p#^eta exp(beta r)
and not its variance.

Source: as `nabla_db`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from actors.conditioning import Conditioning
from actors.policy import Policy
from learner.batch import Batch
from learner.objectives.nabla_db import NablaDB, NablaDBConfig, Piece, Seen, predict_piece
from learner.objectives.objective import Asks


class ResidualNablaDBConfig(NablaDBConfig, frozen=True, extra="forbid"):
    """Gradient-informed detailed balance relative to the pretrained model."""

    asks: ClassVar[Asks] = Asks(reward="gradients", noise="everywhere")

    name: Literal["residual_nabla_db"] = "residual_nabla_db"  # type: ignore[assignment]
    prior_strength: float = Field(1.0, ge=0, description="Exponent eta of the pretrained model in the target.")
    guess_by: Literal["policy", "pretrained"] = Field(
        "policy",
        description="Whose predicted image the guess takes the reward's gradient of. policy: as published; pretrained: "
        "of the chain over which exp(beta r) is averaged, which is the better guess without a flow function.",
    )

    def build(self) -> ResidualNablaDB:
        """The objective."""
        return ResidualNablaDB(self)


@dataclass(frozen=True)
class GuessedPiece(Piece):
    """n transitions with both models' predictions at their start, where the guess is the pretrained model's."""

    start: Tensor  # (n, ...) float32, x_t again, a leaf for the ways back through the pretrained model
    pretrained: Tensor  # (n, ...) float32, what its network says there


class ResidualNablaDB(NablaDB):
    """Residual gradient-informed detailed balance, see the head of this file."""

    config: ResidualNablaDBConfig

    @property
    def _by_pretrained(self) -> bool:
        return self.config.guess_by == "pretrained"

    @property
    def _follows_input(self) -> bool:
        by_policy = self.config.guess_jacobian == "network" and not self._by_pretrained
        return by_policy or (self._reverses and not self.config.expected_scores)

    def piece(self, policy: Policy, batch: Batch, rows: Tensor, cols: Tensor) -> Piece:
        piece = predict_piece(policy, batch, rows, cols, self._follows_input)
        if not self._by_pretrained:
            return piece
        start = piece.x.detach().requires_grad_(self._reverses or self.config.guess_jacobian == "network")
        return GuessedPiece(
            **vars(piece), start=start, pretrained=policy.pretrained(start, piece.step, piece.conditioning)
        )

    def see_starts(self, piece: Piece, keys: np.ndarray | None) -> Seen:
        if not isinstance(piece, GuessedPiece):
            return super().see_starts(piece, keys)
        return Seen(piece.start, piece.step, piece.pretrained, piece.prompts, keys)

    def foresee(self, policy: Policy, x: Tensor, step: Tensor, conditioning: Conditioning) -> Tensor:
        return (policy.pretrained if self._by_pretrained else policy.predict)(x, step, conditioning)

    def scores(self, policy: Policy, piece: Piece) -> tuple[Tensor, Tensor | None]:
        transitions, eta, guessed = policy.transitions, self.config.prior_strength, isinstance(piece, GuessedPiece)
        with policy.using(None), torch.set_grad_enabled(self._reverses):
            if isinstance(piece, GuessedPiece):
                x, prediction = piece.start, piece.pretrained
            else:  # the whole way to the input stays inside the block, where the adapters are off
                x = piece.x.detach().requires_grad_(self._reverses)
                prediction = policy.predict(x, piece.step, piece.conditioning)
            mean, pretrained = transitions.mean(x, prediction, piece.step), prediction.detach()
            weight = transitions.score_weight(piece.step, x)
            sampled = (piece.x_next - mean).detach() / piece.std**2  # minus d log P_F# / d x_next
            cotangent = weight * (piece.prediction.detach() - pretrained) if self.config.expected_scores else sampled
            reverse = torch.autograd.grad(mean, x, cotangent, retain_graph=guessed)[0] if self._reverses else None
        difference = weight * (piece.prediction - pretrained)
        if self.config.expected_scores:
            return eta * difference, None if reverse is None else eta * reverse
        # The published form: eta also multiplies the policy's own reverse score, whose mean is zero.
        forward = difference - (1 - eta) * sampled
        return forward, None if reverse is None else eta * (reverse - self.reverse_score(piece))
