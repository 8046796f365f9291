"""DAG-DB: detailed balance of scalar flows over the denoising chain. Samples exp(beta r(x)), without the prior.

    L = ( f_t(x_t) + log P_F(x_next | x_t) - log P_B(x_t | x_next) - f_next(x_next) )^2

    f_t(x) = h_phi(x, t, c) + beta r(decode(x0_theta(x))) / D        f_0(x_0) = beta r(decode(x_0)) / D

in nats per dimension of the D = C H W dimensions, as log-probabilities are everywhere here: the published beta of 100
is 100 D in these units. The forward-looking reward carries no gradient; the loss trains policy and flow function
together. Its image x0_theta is predicted with the prompt alone, as in the published code, while the policy is guided.

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
from learner.objectives.detailed_balance import DetailedBalance, DetailedBalanceConfig
from learner.objectives.objective import Asks
from learner.visits import Visits, visit


class DAGDBConfig(DetailedBalanceConfig, frozen=True, extra="forbid"):
    """Detailed balance with a scalar flow."""

    asks: ClassVar[Asks] = Asks(reward="images", noise="posterior")

    name: Literal["dag_db"] = "dag_db"
    regularisation: float = Field(1.0, ge=0, description="Weight of the squared change of the predicted noise.")
    guided_guess: bool = Field(
        False,
        description="Predict the image whose reward a flow looks forward to with guidance, as the policy acts, which "
        "takes no evaluation of its own; false is the published code's way, with the prompt alone.",
    )

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
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        assert self.flow is not None
        transitions, visits = policy.transitions, visit(batch, rows, cols)
        x, x_next = batch.latents[rows, cols].to(policy.device), batch.next_latents[rows, cols].to(policy.device)
        step, conditioning = batch.steps[cols], policy.encode([batch.prompts[row] for row in rows.tolist()])
        prediction = policy.predict(x, step, conditioning)
        forward = log_prob(x_next, transitions.mean(x, prediction, step), transitions.std_at(step, x))
        other = self.other_log_prob(policy, x, x_next, step, conditioning)

        guess = self.guesses(policy, batch, visits, prediction.detach())
        states, told = visits.x.to(policy.device), policy.encode([batch.prompts[row] for row in visits.rows.tolist()])
        last = (visits.state == transitions.adapted_steps).to(policy.device)
        log_flow = guess + torch.where(last, 0.0, self.flow(states, visits.state, told))
        imbalance = log_flow[: len(rows)] + forward - other - log_flow[visits.ends.to(policy.device)]
        judged = imbalance.isfinite()
        losses = {"imbalance": torch.where(judged, imbalance, 0.0).square()}
        if self._regularised:
            losses["change"] = self.change(policy, x, step, prediction, conditioning)
        summed = {name: (weights * loss).sum() for name, loss in losses.items()}
        total = summed["imbalance"] + self.config.regularisation * summed.get("change", torch.zeros(()))
        metrics = {f"loss/{name}": loss.detach() for name, loss in summed.items()}
        metrics |= {"loss": total.detach(), "unjudged": (weights * ~judged).sum()}
        return total, metrics, (weights * losses["imbalance"]).detach()

    @torch.no_grad()
    def guesses(self, policy: Policy, batch: Batch, visits: Visits, predicted: Tensor) -> Tensor:
        """beta r / D at each state `(m,)`: of the image itself, and where there is noise of the one that is predicted.

        Args:
            policy: Predicts the images, and is not asked about one that is there.
            batch: Has the images' rewards.
            visits: The m states.
            predicted: `(n, ...)`, what the policy has said at the first n of them.
        """
        transitions = policy.transitions
        reward = batch.rewards[visits.rows].to(policy.device)
        guided = self.config.guided_guess or policy.passes == 1
        noisy = torch.nonzero(visits.state < transitions.adapted_steps).flatten()
        asked = noisy[len(predicted) :] if guided else noisy
        x, state = visits.x.to(policy.device), visits.state
        if len(asked):
            told = policy.encode([batch.prompts[row] for row in visits.rows[asked].tolist()])
            own = policy.predict(x[asked.to(x.device)], state[asked], told, guided)
            predicted = torch.cat([predicted, own]) if guided else own
        where = noisy.to(x.device)
        images = policy.decode(transitions.clean(x[where], predicted, state[noisy]))
        prompts = [batch.prompts[row] for row in visits.rows[noisy].tolist()]
        reward[where] = self._reward.score(images, prompts).to(reward)
        return self.config.beta / prod(policy.latent_shape) * reward
