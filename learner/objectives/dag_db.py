"""DAG-DB: detailed balance of scalar flows over the denoising chain. Samples exp(beta r(x)), without the prior.

    L = ( f_t(x_t) + log P_F(x_next | x_t) - log P_B(x_t | x_next) - f_next(x_next) )^2

    f_t(x) = h_phi(x, t, c) + beta r(decode(x0_theta(x))) / D        f_0(x_0) = beta r(decode(x_0)) / D

in nats per dimension of the D = C H W dimensions, as log-probabilities are everywhere here: the published beta of 100
is 100 D in these units. The forward-looking reward carries no gradient; the loss trains policy and flow function
together.

Source: Zhang et al., "Improving GFlowNets for Text-to-Image Diffusion Alignment" (arXiv 2406.00633).
"""

from __future__ import annotations

from math import prod
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.transitions import log_prob
from learner.batch import Batch
from learner.likelihood import REFERENCE_ADAPTER
from learner.objectives.detailed_balance import DetailedBalance, DetailedBalanceConfig
from learner.objectives.objective import Asks
from learner.reward_gradient import predicted_score


class DAGDBConfig(DetailedBalanceConfig, frozen=True, extra="forbid"):
    """Detailed balance with a scalar flow."""

    asks: ClassVar[Asks] = Asks(reward="images", noise="posterior")

    name: Literal["dag_db"] = "dag_db"
    regularisation: float = Field(1.0, ge=0, description="Weight of the squared change of the predicted noise.")

    def build(self) -> DAGDB:
        """The objective."""
        return DAGDB(self)


class DAGDB(DetailedBalance):
    """Detailed balance with a scalar flow, see the head of this file.

    Args:
        config: Its settings.
        flow: Use this flow function instead of a network of `config.flow`.
    """

    config: DAGDBConfig
    kind = "scalar"

    def other_log_prob(
        self, policy: Policy, x: Tensor, x_next: Tensor, step: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """log P_B(x_t | x_next) `(n,)`, nats per dimension: the step of the noising chain."""
        weight, variance = policy.transitions.noising(step, x)
        return log_prob(x, weight * x_next, variance.sqrt())

    def loss(
        self, policy: Policy, batch: Batch, rows: Tensor, cols: Tensor, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert self.flow is not None
        flow, transitions, scale = self.flow, policy.transitions, self.config.beta / prod(policy.latent_shape)
        x, x_next = batch.latents[rows, cols].to(policy.device), batch.next_latents[rows, cols].to(policy.device)
        step, prompts = batch.steps[cols], [batch.prompts[row] for row in rows.tolist()]
        conditioning = policy.encode(prompts)
        prediction = policy.predict(x, step, conditioning)
        forward = log_prob(x_next, transitions.mean(x, prediction, step), transitions.std_at(step, x))
        other = self.other_log_prob(policy, x, x_next, step, conditioning)

        def log_flow(x: Tensor, state: Tensor) -> Tensor:
            guess = predicted_score(policy, self._reward, x, state, conditioning, prompts)
            return flow(x, state, conditioning) + scale * guess

        final = (step == transitions.adapted_steps - 1).to(policy.device)
        reward = scale * batch.rewards[rows].to(policy.device)
        imbalance = log_flow(x, step) + forward - other - torch.where(final, reward, log_flow(x_next, step + 1))
        judged = imbalance.isfinite()
        losses = {"imbalance": torch.where(judged, imbalance, 0.0).square()}
        if self._regularised:
            with torch.no_grad(), policy.using(REFERENCE_ADAPTER):
                before = policy.predict(x, step, conditioning)
            noise, noise_before = (transitions.noise(x, told, step) for told in (prediction, before))
            losses["change"] = (noise - noise_before.detach()).square().flatten(1).mean(dim=1)
        summed = {name: (weights * loss).sum() for name, loss in losses.items()}
        total = summed["imbalance"] + self.config.regularisation * summed.get("change", torch.zeros(()))
        metrics = {f"loss/{name}": loss.detach() for name, loss in summed.items()}
        return total, metrics | {"loss": total.detach(), "unjudged": (weights * ~judged).sum()}
