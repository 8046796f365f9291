"""nabla-DB: gradient-informed GFlowNet, detailed balance of scores. Samples exp(beta r(x)), without the prior.

Detailed balance F_t(x_t) P_F(x_next | x_t) = F_next(x_next) P_B(x_t | x_next) with F_0 = exp(beta r), differentiated:

    forward    d log P_F / d x_next - d log P_B / d x_next = G_next(x_next)         trains the policy
    reverse    d log P_B / d x_t    - d log P_F / d x_t    = G_t(x_t)               trains the flow function
    image      G_0(x_0) = beta dr/dx_0,     g_phi(x_0) -> 0

where G = grad log F is the forward-looking flow score: the gradient of the predicted image's reward, and what a network
has to add to it,

    G_t(x_t) = g_phi(x_t, t, c) + beta gamma_t sg[ d r(decode(x0_theta(x_t))) / d x_t ]

The second term is the guess. Of the image it is the reward's own gradient, and no network is asked; of a state it is
taken once, for the transition that ends there and for the one that starts there. `guess_jacobian=identity` puts 1 for
d x0_theta / d x_t, which saves the way back through the network; g_phi absorbs what that leaves out.

Every loss is a mean over dimensions, transitions and samples of a squared difference. `residual_nabla_db` is the form
to use on a pretrained model; it replaces the two score differences and nothing else.

Source: Liu et al., "Efficient Diversity-Preserving Diffusion Alignment via Gradient-Informed GFlowNets" (ICLR 2025,
arXiv 2412.07775). Where the published code departs from these equations, the settings say so;
`residual_nabla_db_release` turns them all the published way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.rollout import noise
from actors.transitions import over
from learner.batch import Batch
from learner.flow_function import FlowConfig
from learner.forward_process import mean_square
from learner.objectives.detailed_balance import DetailedBalance, DetailedBalanceConfig
from learner.objectives.objective import Asks
from learner.reward_gradient import reward_gradient
from learner.visits import Visits, visit

_COPIES = 2**22  # numbers of the noise of smoothing, beyond those of any chain


class NablaDBConfig(DetailedBalanceConfig, frozen=True, extra="forbid"):
    """Gradient-informed detailed balance."""

    asks: ClassVar[Asks] = Asks(reward="gradients", noise="posterior")

    name: Literal["nabla_db"] = "nabla_db"
    gamma: Literal["alpha_bar", "sqrt_alpha_bar", "one"] = Field(
        "alpha_bar", description="How the predicted image's reward gradient fades towards the noise."
    )
    guess_jacobian: Literal["network", "identity"] = Field(
        "network",
        description="How the predicted image moves with the state. network: as it does, which takes a way back through "
        "the network; identity: one to one, in states of variance one. With gamma=sqrt_alpha_bar that is how "
        "white noise of variance one would be denoised.",
    )
    smoothing: int = Field(
        1,
        ge=1,
        description="Copies of the predicted image over which the reward's gradient is averaged, each with noise of "
        "smoothing_std in its latents; the paper has three.",
    )
    smoothing_std: float = Field(0.0, ge=0, description="Standard deviation of that noise; 0 is none.")
    max_drift: float | None = Field(
        None,
        gt=0,
        description="Shorten the predicted image's reward gradient, sample by sample, so that it moves the mean of a "
        "transition by at most this many of its standard deviations (a KL of at most max_drift^2 / 2); null: exact.",
    )
    reverse_weight: float = Field(1.0, ge=0, description="Weight of the reverse loss (w_B).")
    weighting: Literal["none", "variance", "output"] = Field(
        "output",
        description="Of squared score differences. output: in what the network says, so that no step outweighs the "
        "others; variance: times std^2, as in a KL, where the last step but one weighs most; none: plain, as "
        "published, where the last ones do.",
    )
    step_fraction: float = Field(0.1, gt=0, le=1, description="Share of the transitions that is trained on.")
    updates: int = Field(4, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")
    no_flow: bool = Field(False, description="Drop flow function and reverse loss: cheaper, and no longer exact.")
    detach_flow: bool = Field(True, description="Keep the forward loss from training the flow function.")
    reverse_on_last: bool = Field(True, description="Reverse loss on the last transition too, where the reward is.")
    expected_scores: bool = Field(
        True, description="Put expectations for the scores of sampled noise, where they are known: same mean, no noise."
    )
    unbiased: bool = Field(
        True,
        description="With subsample=steps, weight each drawn transition with the number that it stands for. false: the "
        "last one is drawn every time too, and all weigh the same, as published.",
    )
    fade_image: bool = Field(False, description="Multiply the image's own reward gradient with gamma too.")

    @model_validator(mode="after")
    def _check(self) -> NablaDBConfig:
        if self.no_flow and self.flow != FlowConfig():
            raise ValueError("objective.flow is set, but objective.no_flow drops the flow function")
        if not self.unbiased and self.subsample == "chains":
            raise ValueError("objective.unbiased=false weighs drawn steps, so it needs objective.subsample=steps")
        if (self.smoothing > 1) != (self.smoothing_std > 0):
            raise ValueError(
                f"objective.smoothing is {self.smoothing} and objective.smoothing_std {self.smoothing_std:g}, which "
                "smooths nothing; set smoothing to at least 2 and smoothing_std above 0, or leave both out"
            )
        return self

    def build(self) -> NablaDB:
        """The objective."""
        return NablaDB(self)


@dataclass(frozen=True)
class Piece:
    """n transitions with the policy's predictions at their start."""

    x: Tensor  # (n, ...) float32, x_t; a leaf that takes gradients, where somebody asks for them
    x_next: Tensor  # (n, ...) float32, x_next
    step: Tensor  # (n,) int64
    std: Tensor  # (n, 1, ...) float32
    prompts: list[str]  # (n,)
    conditioning: Conditioning  # n rows
    prediction: Tensor  # (n, ...) float32, what the policy's network says, with its graph
    mean: Tensor  # (n, ...) float32, the policy's mean of x_next, with its graph


@dataclass(frozen=True)
class Seen:
    """n states of chains and what the network says there by which the guess sees the image."""

    x: Tensor  # (n, ...) float32, a leaf where the network's Jacobian is asked for
    state: Tensor  # (n,) int64 in [0, T]
    prediction: Tensor  # (n, ...) float32; of an image it is not used
    prompts: list[str]  # (n,)
    keys: np.ndarray | None  # (n, 5) uint64, of the samples' noise


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

    @property
    def always_last(self) -> bool:  # type: ignore[override]
        return not self.config.unbiased

    def piece(self, policy: Policy, batch: Batch, rows: Tensor, cols: Tensor) -> Piece:
        """Transitions `(rows, cols)`, `(n,)` int64 each, of a batch, with what is predicted at their start."""
        return predict_piece(policy, batch, rows, cols, self._follows_input)

    def see_starts(self, piece: Piece, keys: np.ndarray | None) -> Seen:
        """The states that transitions start at, as the guess sees them; `keys` `(n, 5)` are of the samples' noise."""
        return Seen(piece.x, piece.step, piece.prediction, piece.prompts, keys)

    def foresee(self, policy: Policy, x: Tensor, step: Tensor, conditioning: Conditioning) -> Tensor:
        """The prediction `(n, ...)` by which the guess sees the image in states `(n, ...)` of steps `(n,)`."""
        return policy.predict(x, step, conditioning)

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

    @property
    def _follows_input(self) -> bool:
        """Whether gradients with respect to the states are taken through the policy's network."""
        return self.config.guess_jacobian == "network" or (self._reverses and not self.config.expected_scores)

    def loss(
        self, policy: Policy, batch: Batch, rows: Tensor, cols: Tensor, weights: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        config, transitions, visits = self.config, policy.transitions, visit(batch, rows, cols)
        piece = self.piece(policy, batch, rows, cols)
        ends, weights = visits.ends.to(piece.x.device), weights.to(piece.x.device)
        final = (piece.step == transitions.adapted_steps - 1).to(piece.x.device)
        scale = self.scale(policy, piece)

        forward_score, reverse_score = self.scores(policy, piece)
        guess, judged = self.guesses(policy, batch, visits, piece)
        target, known = guess[ends], judged[ends]
        losses, sizes = {}, {"reward_gradient": target}
        if self.flow is not None:
            told = policy.encode([batch.prompts[row] for row in visits.rows.tolist()])
            flow = self.flow(visits.x.to(piece.x.device), visits.state, told)
            losses["terminal"] = torch.where(final, mean_square(flow[ends]), 0.0)
            flow_next = torch.where(over(final, flow), 0.0, flow[ends])
            target = target + (flow_next.detach() if config.detach_flow else flow_next)
            sizes["flow"] = flow_next.detach()
            if reverse_score is not None:
                known = known & judged[: len(rows)]
                reverse = mean_square(scale * (flow[: len(rows)] + guess[: len(rows)] - reverse_score))
                losses["reverse"] = reverse if config.reverse_on_last else torch.where(final, 0.0, reverse)
        losses["forward"] = mean_square(scale * (forward_score - target))
        if self._regularised:
            losses["change"] = self.change(policy, piece.x, piece.step, piece.prediction, piece.conditioning)

        factors = {"reverse": config.reverse_weight, "change": config.regularisation}
        # A transition whose images the reward could not judge takes no part.
        each = {name: weights * torch.where(known, loss, 0.0) for name, loss in losses.items()}
        summed = {name: loss.sum() for name, loss in each.items()}
        total = sum(factors.get(name, 1.0) * loss for name, loss in summed.items())
        assert isinstance(total, Tensor)
        metrics = {f"loss/{name}": loss.detach() for name, loss in summed.items()}
        for name, size in sizes.items():
            metrics[f"size/{name}"] = (weights * torch.where(known, mean_square(size), 0.0)).sum()
        metrics["unjudged"] = (weights * ~known).sum()
        return total, metrics | {"loss": total.detach()}, each["forward"].detach()

    def scale(self, policy: Policy, piece: Piece) -> Tensor | float:
        """What score differences are multiplied by before they are squared, `(n, 1, ...)`."""
        if self.config.weighting == "output":
            return 1 / policy.transitions.score_weight(piece.step, piece.x)
        return piece.std if self.config.weighting == "variance" else 1.0

    def guesses(self, policy: Policy, batch: Batch, visits: Visits, piece: Piece) -> tuple[Tensor, Tensor]:
        """Guesses at states `(m, ...)`, detached, and which the reward could judge `(m,)`.

        At a state that starts a transition and ends none only the reverse loss asks; without it the guess there is 0.
        """
        starts, device = len(piece.step), piece.x.device
        guess, judged = torch.zeros_like(visits.x, device=device), torch.ones(len(visits.state), dtype=torch.bool)
        at_starts = self.see_starts(piece, batch.keys_of(visits.rows[:starts]))
        others = self._see(policy, batch, visits, starts)
        asked = torch.arange(starts) if self._reverses else visits.ends[visits.ends < starts]
        for first, seen, which in ((0, at_starts, asked), (starts, others, torch.arange(len(others.state)))):
            if len(which):
                found, known = self.guess(policy, seen, which)
                guess[(first + which).to(device)], judged[first + which] = found, known.cpu()
        return guess, judged.to(device)

    def _see(self, policy: Policy, batch: Batch, visits: Visits, first: int) -> Seen:
        """The states from number `first` on; no network is asked about images."""
        x, state, rows = visits.x[first:].to(policy.device), visits.state[first:], visits.rows[first:]
        prompts, noisy = [batch.prompts[row] for row in rows.tolist()], state < len(policy.transitions)
        by_network = self.config.guess_jacobian == "network"
        x, prediction = x.detach().requires_grad_(by_network), torch.zeros_like(x)
        if noisy.any():
            conditioning = policy.encode(
                [prompt for prompt, asked in zip(prompts, noisy.tolist(), strict=True) if asked]
            )
            with torch.set_grad_enabled(by_network):
                where = noisy.to(x.device)
                prediction[where] = self.foresee(policy, x[where], state[noisy], conditioning)
        return Seen(x, state, prediction, prompts, batch.keys_of(rows))

    def guess(self, policy: Policy, seen: Seen, which: Tensor) -> tuple[Tensor, Tensor]:
        """beta gamma_t dr/dx of the images that are predicted at some states, and which the reward could judge.

        Args:
            policy: Decodes the images.
            seen: States and predictions.
            which: `(k,)` int64, which of them.

        Returns:
            `(k, ...)` float32, detached, and `(k,)` bool.
        """
        config, chain, where = self.config, policy.transitions, which.to(seen.x.device)
        state, by_network = seen.state[which], config.guess_jacobian == "network"
        image = (state == len(chain)).to(seen.x.device)
        with torch.set_grad_enabled(by_network):
            clean = chain.clean(seen.x, seen.prediction, seen.state)[where]
        gradient, judged = self._slope(policy, clean.detach(), seen, which)
        if by_network:
            gradient = torch.autograd.grad(clean, seen.x, gradient, retain_graph=True)[0][where]
        else:
            size = (chain.signal**2 + chain.sigma**2).sqrt().to(gradient)[state.to(gradient.device)]
            gradient = gradient / over(torch.where(image, 1.0, size), gradient)
        gamma = chain.alpha_bar.to(gradient)[state.to(gradient.device)]
        gamma = {"alpha_bar": gamma, "sqrt_alpha_bar": gamma.sqrt(), "one": torch.ones_like(gamma)}[config.gamma]
        if not config.fade_image:
            gamma = torch.where((state == chain.adapted_steps).to(gamma.device), 1.0, gamma)
        guess = config.beta * over(gamma, gradient) * gradient
        if config.max_drift is not None:
            # Of the transition that leads to the state, so that a state has one guess, whichever loss asks for it.
            std = chain.std_at((state - 1).clamp(min=0), gradient)
            drift = over((std * guess).flatten(1).norm(dim=1), guess)
            guess = guess * (config.max_drift / drift.clamp(min=config.max_drift))
        return guess, judged

    def _slope(self, policy: Policy, clean: Tensor, seen: Seen, which: Tensor) -> tuple[Tensor, Tensor]:
        """d r(decode(clean)) / d clean, averaged over small noise where that is set, and which were judged."""
        config, prompts = self.config, [seen.prompts[number] for number in which.tolist()]
        gradients, judged = [], torch.ones(len(clean), dtype=torch.bool, device=clean.device)
        for copy in range(config.smoothing):
            leaf = clean
            if config.smoothing_std:
                assert seen.keys is not None
                numbers = _COPIES + copy * (len(policy.transitions) + 1) + seen.state[which]
                leaf = clean + config.smoothing_std * noises(seen.keys[which.numpy()], numbers, clean)
            leaf = leaf.requires_grad_()
            gradient, known = reward_gradient(self._reward, policy.decode(leaf), leaf, prompts)
            gradients.append(gradient)
            judged &= known
        return torch.stack(gradients).mean(dim=0), judged


def predict_piece(policy: Policy, batch: Batch, rows: Tensor, cols: Tensor, differentiable: bool = True) -> Piece:
    """Transitions `(rows, cols)`, `(n,)` int64 each, of a batch, with the policy's predictions.

    Args:
        policy: Predicts.
        batch: Where they are stored.
        rows: Samples.
        cols: Columns.
        differentiable: Whether gradients will be taken with respect to the states.
    """
    # A leaf of its own: nothing flows back into the trajectory.
    x = batch.latents[rows, cols].to(policy.device).detach().requires_grad_(differentiable)
    x_next = batch.next_latents[rows, cols].to(policy.device).detach()
    step = batch.steps[cols]
    prompts = [batch.prompts[row] for row in rows.tolist()]
    conditioning = policy.encode(prompts)
    prediction = policy.predict(x, step, conditioning)
    mean = policy.transitions.mean(x, prediction, step)
    return Piece(x, x_next, step, policy.transitions.std_at(step, x), prompts, conditioning, prediction, mean)


def noises(keys: np.ndarray, numbers: Tensor, like: Tensor) -> Tensor:
    """Standard normal noise of the shape of `like` `(n, ...)`, keyed by sample `(n, 5)` and number `(n,)` int64."""
    shape = tuple(like.shape[1:])
    drawn = [noise(keys[i : i + 1], int(number), shape) for i, number in enumerate(numbers)]
    return torch.cat(drawn).to(like)
