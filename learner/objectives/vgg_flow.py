"""VGG-Flow: matches the change of the velocity to the gradient of a value function; optimal control without noise.

In flow matching's time t (1 noise, 0 image) the model's velocity v is changed so that

    max E[ r(x_0) - 1/(2 beta) integral |v_theta - v_#|^2 dt ]     along the probability-flow ODE

whose optimum is v_# - g, with g beta times the gradient of the value. Along the controlled path g is carried like an
adjoint of the pretrained model (the Hamilton-Jacobi-Bellman equation, differentiated), and at the image it is known:

    g(x_t)  = beta gamma_t sg[ dr / dx0 at x0_theta(x_t) ] + nu_phi(x_t, t, c),        g(x_0) = beta dr / dx_0
    match        mean |v_theta - sg(v_# - g)|^2                                         trains the policy
    consistency  mean |g(x_t) - sg( (d x_next,# / d x_t)^T g(x_next) )|^2 / dt^2        trains nu_phi

The predicted image's gradient is taken without the way back through the network, and nu_phi learns what is missing. A
state is x = signal x0 + sigma n; whatever the network predicts, y = x / (signal + sigma) is a state of flow matching at
t = sigma / (signal + sigma), and all of this is said of y. It is no sampler: there is no noise, so images do not follow
p# exp(beta r), and the start keeps its law.

Source: Liu et al., "Value Gradient Guidance for Flow Matching Alignment" (NeurIPS 2025, arXiv 2512.05116). Its released
code differentiates in time and space by small differences, where here the path's own next state is taken; its boundary
loss (nu_phi = 0 at the image) holds here by construction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.rollout import noise
from actors.transitions import Transitions, over
from learner.batch import Batch
from learner.companion import Companion
from learner.decoupled import backward_each
from learner.flow_function import Flow, FlowConfig, make_flow
from learner.forward_process import flow_time, mean_square, velocity_error
from learner.objectives.objective import Asks, Objective, Part, Plan
from learner.ranks import ALONE, Ranks
from learner.reward_gradient import RewardModel, reward_gradient
from learner.subsample import Strata, split_samples


class VGGFlowConfig(BaseModel, frozen=True, extra="forbid"):
    """Value gradient guidance."""

    asks: ClassVar[Asks] = Asks(reward="gradients", noise="none")

    name: Literal["vgg_flow"] = "vgg_flow"
    beta: float = Field(1.0, ge=0, description="Weight of the reward against the change of the velocity (1 / lambda).")
    gamma: Literal["squared", "linear", "one"] = Field(
        "squared", description="How the predicted image's gradient fades towards the noise: (1 - t)^2, 1 - t, or not."
    )
    max_gradient: float | None = Field(
        None,
        gt=0,
        description="Shorten each image's reward gradient, in its latents, to at most this norm; null: exact. The "
        "released code takes the 0.8 quantile of the update before.",
    )
    step_fraction: float = Field(
        0.25, gt=0, le=1, description="Share of the steps with an adapter that is trained on, one of each stratum."
    )
    updates: int = Field(1, ge=1, description="Optimizer steps of a batch, each on its share of the samples.")
    value: FlowConfig | None = Field(
        FlowConfig(), description="The network nu_phi; null leaves it out, and with it the consistency."
    )

    def build(self) -> VGGFlow:
        """The objective."""
        return VGGFlow(self)


class VGGFlow(Objective):
    """Value gradient guidance, see the head of this file.

    Args:
        config: Its settings.
        value: Use this for nu_phi instead of a network of `config.value`.
    """

    config: VGGFlowConfig

    def __init__(self, config: VGGFlowConfig, value: Flow | None = None) -> None:
        self.config, self.value = config, value

    @property
    def modules(self) -> Mapping[str, Companion]:  # type: ignore[override]
        return {} if self.value is None else {"value": self.value}

    def attach(self, policy: Policy, reward: RewardModel | None) -> None:
        assert reward is not None
        self._reward = reward
        if self.value is None and self.config.value is not None:
            self.value = make_flow(self.config.value, policy, "vector")
        self._strata = Strata(len(self.trained_steps(policy.transitions)), self.config.step_fraction)

    def plan(self, chain: Transitions, version: int = 0) -> Plan:
        return Plan(())  # without noise a chain is known by where it begins

    def trained_steps(self, chain: Transitions) -> tuple[int, ...]:
        return tuple(range(chain.adapted_steps))

    def parts(self, batch: Batch, generator: torch.Generator) -> Iterator[Part]:
        rows = torch.nonzero(batch.rewards.isfinite()).flatten()  # those that were not dropped
        for samples in split_samples(len(rows), self.config.updates, generator):
            yield Part(rows[samples], self._strata.draw(len(samples), generator))

    def backward(
        self, policy: Policy, batch: Batch, part: Part, micro_batch: int, ranks: Ranks = ALONE
    ) -> dict[str, float]:
        drawn = part.columns.shape[1]
        weights = self._strata.weights
        weights = weights / weights.sum() / len(part.samples)

        def loss(piece: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            states, images = replay(policy, batch, part.samples[piece])
            rows, step = torch.arange(len(piece)).repeat_interleave(drawn), part.columns[piece].flatten()
            prompts = [batch.prompts[row] for row in part.samples[piece].repeat_interleave(drawn).tolist()]
            here, there = ((states[rows, at], images[rows, at]) for at in (step, step + 1))
            weight = weights.to(policy.device).repeat(len(piece))
            return self._loss(policy, here, there, step, prompts, weight)

        # Samples, of which each has so many transitions.
        return backward_each(len(part.samples), loss, micro_batch=max(1, micro_batch // drawn), ranks=ranks)

    def _loss(
        self,
        policy: Policy,
        here: tuple[Tensor, Tensor],
        there: tuple[Tensor, Tensor],
        step: Tensor,
        prompts: list[str],
        weight: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the losses of n transitions, by state and predicted image at both ends; and metrics."""
        transitions, conditioning, (x, _) = policy.transitions, policy.encode(prompts), here
        gradient, judged = self._guess(policy, here[1], step, prompts)
        sizes = {"reward_gradient": gradient}
        with policy.using(None), torch.set_grad_enabled(self.value is not None):
            leaf = x.detach().requires_grad_(self.value is not None)
            prediction = policy.predict(leaf, step, conditioning)
            mean, pretrained = transitions.mean(leaf, prediction, step), prediction.detach()
            losses = {}
            if self.value is not None:
                carried, judged_there = self._carried(policy, there, step, prompts, conditioning, leaf, mean)
                correction, judged = self.value(x, step, conditioning), judged & judged_there
                times = (flow_time(transitions, at, x) for at in (step, step + 1))
                passed = next(times) - next(times)
                losses["consistency"] = mean_square(gradient + correction - carried) / passed**2
                sizes["value"] = correction.detach()
                gradient = gradient + correction.detach()
        goal = transitions.clean(x, pretrained, step) + over(flow_time(transitions, step, x), x) * gradient
        losses["match"] = velocity_error(transitions, policy.clean(x, step, conditioning), goal.detach(), step)

        # A transition whose images the reward could not judge takes no part.
        summed = {name: (weight * torch.where(judged, loss, 0.0)).sum() for name, loss in losses.items()}
        total = torch.stack(list(summed.values())).sum()
        metrics = {f"loss/{name}": loss.detach() for name, loss in summed.items()}
        for name, size in sizes.items():
            metrics[f"size/{name}"] = (weight * torch.where(judged, mean_square(size), 0.0)).sum()
        return total, metrics | {"loss": total.detach(), "unjudged": (weight * ~judged).sum()}

    def _carried(
        self,
        policy: Policy,
        there: tuple[Tensor, Tensor],
        step: Tensor,
        prompts: list[str],
        conditioning: Conditioning,
        x: Tensor,
        mean: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """g at the next states, carried back through the pretrained step from x to `mean`; and who is judged."""
        assert self.value is not None
        gradient, judged = self._guess(policy, there[1], step + 1, prompts)
        correction = self.value(there[0], step + 1, conditioning).detach()
        is_last = over(step + 1 == policy.transitions.adapted_steps, correction)
        gradient = gradient + torch.where(is_last, 0.0, correction)
        size = (policy.transitions.signal + policy.transitions.sigma).to(x)  # x = size y
        ratio = over(size[step] / size[step + 1], x)
        return torch.autograd.grad(mean, x, ratio * gradient)[0], judged

    def _guess(self, policy: Policy, image: Tensor, state: Tensor, prompts: list[str]) -> tuple[Tensor, Tensor]:
        """beta gamma dr/dx0 `(n, ...)` at images that are predicted at states, detached, and which could be judged."""
        leaf = image.detach().requires_grad_()
        with torch.enable_grad():
            gradient, judged = reward_gradient(self._reward, policy.decode(leaf), leaf, prompts)
        if (most := self.config.max_gradient) is not None:
            gradient = gradient * over(most / gradient.flatten(1).norm(dim=1).clamp(min=most), gradient)
        left = 1 - flow_time(policy.transitions, state, gradient)
        gamma = {"squared": left**2, "linear": left, "one": torch.ones_like(left)}[self.config.gamma]
        gamma = torch.where((state == policy.transitions.adapted_steps).to(gamma.device), 1.0, gamma)
        return self.config.beta * over(gamma, gradient) * gradient, judged


@torch.no_grad()
def replay(policy: Policy, batch: Batch, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The chains that begin where some samples' did, gone by the acting adapter without noise, as far as it acts.

    Args:
        policy: Whose chain adds no noise.
        batch: With the keys of what the chains began with.
        rows: `(n,)` int64, samples of the batch.

    Returns:
        The A + 1 states up to the one after the last step with an adapter and the images that are predicted there,
        `(n, A + 1, ...)` float32 each; the last state of a whole chain is the image itself.
    """
    assert batch.keys is not None
    transitions = policy.transitions
    conditioning = policy.encode([batch.prompts[row] for row in rows.tolist()])
    x = noise(batch.keys[rows.numpy()], 0, policy.latent_shape).to(policy.device)
    states, images = [], []
    for number in range(transitions.adapted_steps + 1):
        states.append(x)
        if number == len(transitions):
            images.append(x)
            break
        step = torch.full((len(x),), number)
        prediction = policy.predict(x, step, conditioning)
        images.append(transitions.clean(x, prediction, step))
        x = transitions.mean(x, prediction, step)
    return torch.stack(states, dim=1).detach(), torch.stack(images, dim=1).detach()
