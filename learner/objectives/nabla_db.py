"""nabla-DB: gradient-informed GFlowNet, detailed balance of scores. Samples exp(beta r(x)), without the prior.

Detailed balance F_t(x_t) P_F(x_next | x_t) = F_next(x_next) P_B(x_t | x_next) with F_0 = exp(beta r), differentiated:

    forward    d log P_F / d x_next - d log P_B / d x_next = G_next(x_next)         trains the policy
    reverse    d log P_B / d x_t    - d log P_F / d x_t    = G_t(x_t)               trains the flow function
    image      G_0(x_0) = beta dr/dx_0,     g_phi(x_0) -> 0

where G = grad log F is the forward-looking flow score: the gradient of the predicted image's reward, and what a network
has to add to it,

    G_t(x_t) = g_phi(x_t, t, c) + beta gamma_t sg[ d r(decode(x0_theta(x_t))) / d x_t ]

Every loss is a mean over dimensions, transitions and samples of a squared difference. `residual_nabla_db` is the form
to use on a pretrained model; it replaces the two score differences and nothing else.

Source: Liu et al., "Efficient Diversity-Preserving Diffusion Alignment via Gradient-Informed GFlowNets" (ICLR 2025,
arXiv 2412.07775). Where the published code departs from these equations, the settings say so;
`residual_nabla_db_release` turns them all the published way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.transitions import over
from learner.batch import Batch
from learner.flow_function import FlowConfig
from learner.likelihood import REFERENCE_ADAPTER
from learner.objectives.detailed_balance import DetailedBalance, DetailedBalanceConfig
from learner.objectives.objective import Asks
from learner.reward_gradient import reward_gradient
from learner.subsample import Strata


class NablaDBConfig(DetailedBalanceConfig, frozen=True, extra="forbid"):
    """Gradient-informed detailed balance."""

    asks: ClassVar[Asks] = Asks(reward="gradients", noise="posterior")

    name: Literal["nabla_db"] = "nabla_db"
    gamma: Literal["alpha_bar", "sqrt_alpha_bar", "one"] = Field(
        "alpha_bar", description="How the predicted image's reward gradient fades towards the noise."
    )
    max_drift: float | None = Field(
        None,
        gt=0,
        description="Shorten the predicted image's reward gradient, sample by sample, so that it moves the mean of a "
        "transition by at most this many of its standard deviations (a KL of at most max_drift^2 / 2); null: exact.",
    )
    reverse_weight: float = Field(1.0, ge=0, description="Weight of the reverse loss (w_B).")
    weighting: Literal["none", "variance"] = Field(
        "variance",
        description="variance: squared score differences times std^2, as in a KL; none: plain, as published, so that "
        "the last steps weigh most.",
    )
    step_fraction: float = Field(0.1, gt=0, le=1, description="Share of the transitions that is trained on.")
    updates: int = Field(4, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")
    no_flow: bool = Field(False, description="Drop flow function and reverse loss: cheaper, and no longer exact.")
    detach_flow: bool = Field(True, description="Keep the forward loss from training the flow function.")
    reverse_on_last: bool = Field(True, description="Reverse loss on the last transition too, where the reward is.")
    expected_scores: bool = Field(
        True, description="Put expectations for the scores of sampled noise, where they are known: same mean, no noise."
    )
    unbiased: bool = Field(True, description="Weight each drawn transition with the number that it stands for.")
    fade_image: bool = Field(False, description="Multiply the image's own reward gradient with gamma too.")

    @model_validator(mode="after")
    def _check(self) -> NablaDBConfig:
        if self.no_flow and self.flow != FlowConfig():
            raise ValueError("objective.flow is set, but objective.no_flow drops the flow function")
        return self

    def build(self) -> NablaDB:
        """The objective."""
        return NablaDB(self)


@dataclass(frozen=True)
class Piece:
    """n transitions with the policy's predictions at their start."""

    x: Tensor  # (n, ...) float32, x_t; a leaf that takes gradients
    x_next: Tensor  # (n, ...) float32, x_next; another
    step: Tensor  # (n,) int64
    std: Tensor  # (n, 1, ...) float32
    prompts: list[str]  # (n,)
    conditioning: Conditioning  # n rows
    prediction: Tensor  # (n, ...) float32, what the policy's network says, with its graph
    mean: Tensor  # (n, ...) float32, the policy's mean of x_next, with its graph


class NablaDB(DetailedBalance):
    """Gradient-informed detailed balance, see the head of this file.

    Args:
        config: Its settings.
        flow: Use this flow function instead of a network of `config.flow`.
    """

    config: NablaDBConfig
    kind = "vector"

    @property
    def has_flow(self) -> bool:  # type: ignore[override]
        return not self.config.no_flow

    def column_weights(self, strata: Strata) -> Tensor:
        return strata.weights if self.config.unbiased else torch.ones_like(strata.weights)

    def scores(self, policy: Policy, piece: Piece) -> tuple[Tensor, Tensor | None]:
        """What the flow score has to equal: at x_next (with gradient to the policy) and at x_t (without any).

        Both `(n, ...)`; the second is `None` where no reverse loss asks for it.
        """
        weight, variance = policy.transitions.noising(piece.step, piece.x)  # P_B
        x, x_next = piece.x.detach(), piece.x_next.detach()
        noising = (x - weight * x_next) / variance
        forward = (piece.mean - x_next) / piece.std**2 - weight * noising
        if not self._reverses:
            return forward, None
        reverse = -noising
        if not self.config.expected_scores:  # the mean of d log P_F / d x_t over x_next ~ P_F is zero
            reverse = reverse - self.reverse_score(piece)
        return forward, reverse

    @property
    def _reverses(self) -> bool:
        return not self.config.no_flow and self.config.reverse_weight > 0

    @staticmethod
    def reverse_score(piece: Piece) -> Tensor:
        """d log P_F / d x_t of the policy, `(n, ...)`, detached."""
        residual = (piece.x_next - piece.mean).detach() / piece.std**2
        return torch.autograd.grad(piece.mean, piece.x, residual, retain_graph=True)[0]

    def loss(
        self, policy: Policy, batch: Batch, rows: Tensor, cols: Tensor, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config, transitions = self.config, policy.transitions
        piece = predict_piece(policy, batch, rows, cols)
        final = piece.step == transitions.adapted_steps - 1
        state, next_state = piece.step, piece.step + 1
        weights, final = weights.to(piece.x.device), final.to(piece.x.device)
        scale = piece.std if config.weighting == "variance" else 1.0

        forward_score, reverse_score = self.scores(policy, piece)
        images = policy.decode(policy.clean(piece.x_next, next_state, piece.conditioning))
        guess_next, judged = self.guess(policy, images, piece.x_next, next_state, piece.prompts)
        target = guess_next
        losses, sizes = {}, {"reward_gradient": guess_next}
        if self.flow is not None:
            flow_next = self.flow(piece.x_next.detach(), next_state, piece.conditioning)
            losses["terminal"] = torch.where(final, _mean_square(flow_next), 0.0)
            flow_next = torch.where(over(final, flow_next), 0.0, flow_next)
            target = guess_next + (flow_next.detach() if config.detach_flow else flow_next)
            sizes["flow"] = flow_next.detach()
        losses["forward"] = _mean_square(scale * (forward_score - target))
        if self.flow is not None and reverse_score is not None:
            images = policy.decode(transitions.clean(piece.x, piece.prediction, state))
            guess, judged_too = self.guess(policy, images, piece.x, state, piece.prompts, keep_graph=True)
            judged = judged & judged_too
            flow = self.flow(piece.x.detach(), state, piece.conditioning)
            reverse = _mean_square(scale * (flow + guess - reverse_score))
            losses["reverse"] = reverse if config.reverse_on_last else torch.where(final, 0.0, reverse)
        if self._regularised:
            with torch.no_grad(), policy.using(REFERENCE_ADAPTER):
                before = policy.predict(piece.x, piece.step, piece.conditioning)
            noise, noise_before = (transitions.noise(piece.x, p, piece.step) for p in (piece.prediction, before))
            losses["change"] = _mean_square(noise - noise_before.detach())

        factors = {"reverse": config.reverse_weight, "change": config.regularisation}
        # A transition whose images the reward could not judge takes no part.
        summed = {name: (weights * torch.where(judged, loss, 0.0)).sum() for name, loss in losses.items()}
        total = sum(factors.get(name, 1.0) * loss for name, loss in summed.items())
        assert isinstance(total, Tensor)
        metrics = {f"loss/{name}": loss.detach() for name, loss in summed.items()}
        for name, size in sizes.items():
            metrics[f"size/{name}"] = (weights * torch.where(judged, _mean_square(size), 0.0)).sum()
        metrics["unjudged"] = (weights * ~judged).sum()
        return total, metrics | {"loss": total.detach()}

    def guess(
        self, policy: Policy, images: Tensor, x: Tensor, state: Tensor, prompts: list[str], keep_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """beta gamma_t dr/dx of the predicted images, `(n, ...)`, detached, and which the reward could judge."""
        gamma = policy.transitions.alpha_bar.to(x.device)[state.to(x.device)]
        gamma = {"alpha_bar": gamma, "sqrt_alpha_bar": gamma.sqrt(), "one": torch.ones_like(gamma)}[self.config.gamma]
        if not self.config.fade_image:
            gamma = torch.where((state == policy.transitions.adapted_steps).to(x.device), 1.0, gamma)
        gradient, judged = reward_gradient(self._reward, images, x, prompts, keep_graph=keep_graph)
        guess = self.config.beta * over(gamma, gradient) * gradient
        if self.config.max_drift is not None:
            # Of the transition that leads to the state, so that a state has one guess, whichever loss asks for it.
            std = policy.transitions.std_at((state - 1).clamp(min=0), x)
            drift = over((std * guess).flatten(1).norm(dim=1), guess)
            guess = guess * (self.config.max_drift / drift.clamp(min=self.config.max_drift))
        return guess, judged


def predict_piece(policy: Policy, batch: Batch, rows: Tensor, cols: Tensor) -> Piece:
    """Transitions `(rows, cols)`, `(n,)` int64 each, of a batch, with the policy's predictions."""
    # Leaves of their own: gradients are taken at these states, and nothing flows back into the trajectory.
    x = batch.latents[rows, cols].to(policy.device).detach().requires_grad_()
    x_next = batch.next_latents[rows, cols].to(policy.device).detach().requires_grad_()
    step = batch.steps[cols]
    prompts = [batch.prompts[row] for row in rows.tolist()]
    conditioning = policy.encode(prompts)
    prediction = policy.predict(x, step, conditioning)
    mean = policy.transitions.mean(x, prediction, step)
    return Piece(x, x_next, step, policy.transitions.std_at(step, x), prompts, conditioning, prediction, mean)


def _mean_square(values: Tensor) -> Tensor:
    return values.square().flatten(1).mean(dim=1)
