"""A world whose posteriors are known: one-dimensional data, the exact noise prediction, every law on a grid.

The policy here is a `Policy` without a pipeline: its pretrained model predicts the noise of a Gaussian (or a mixture)
exactly, and what is trained is a drift u_t(x), a straight line or a piecewise linear function at each step. Objectives
and learner are the ones that train images. A state `(1, 1, D)` holds D independent copies.

Chains are Gaussian steps, so the law of the sampled x_0 is computed, not estimated: the density is carried through the
chain on a grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from actors.conditioning import Conditioning
from actors.policy import Policy
from actors.schedules import variance_preserving
from actors.transitions import log_prob, make_transitions
from learner.batch import Batch
from learner.flow_function import Flow, FlowConfig
from shapes.networks import make_scheduler

# One Gaussian and the mixture of docs/posteriors.md: (weight, mean, variance) of each component.
GAUSSIAN = ((1.0, 0.5, 0.36),)
MIXTURE = ((0.5, -1.5, 0.16), (0.5, 1.5, 0.16))

GRID = torch.linspace(-6, 6, 2401, dtype=torch.float64)


class PerStep(nn.Module):
    """A function of one variable for each step: a straight line, or linear between `knots` in [-5, 5].

    Args:
        steps: How many functions.
        knots: 0 for straight lines.
    """

    def __init__(self, steps: int, knots: int = 0) -> None:
        super().__init__()
        self.knots = knots
        self.table = nn.Parameter(torch.zeros(steps, knots or 2))

    def forward(self, x: Tensor, step: Tensor, conditioning: Tensor | None = None) -> Tensor:
        """Values of the functions `step` `(B,)` at x `(B, 1, 1, D)`."""
        rows = self.table[step].to(x.dtype)
        flat = x.flatten(1)
        if not self.knots:
            return (rows[:, :1] * flat + rows[:, 1:]).view_as(x)
        place = (flat.clamp(-5, 5) + 5) / 10 * (self.knots - 1)
        left = place.detach().long().clamp(max=self.knots - 2)
        share = place - left
        return ((1 - share) * rows.gather(1, left) + share * rows.gather(1, left + 1)).view_as(x)


class AnalyticPolicy(Policy):
    """A policy whose pretrained model is exact.

    Args:
        steps: N of the chain: Stable Diffusion 1.5's noise schedule, DDIM with eta 1.
        data: The pretrained data distribution, as `GAUSSIAN`.
        dimensions: D.
        knots: Of the trained drift, see `PerStep`.
    """

    def __init__(
        self,
        steps: int,
        data: Sequence[tuple[float, float, float]] = GAUSSIAN,
        dimensions: int = 1,
        knots: int = 0,
    ) -> None:
        self.transitions = make_transitions(variance_preserving(make_scheduler(), steps))
        self.device, self.latent_shape = torch.device("cpu"), (1, 1, dimensions)
        self.drift = PerStep(steps, knots)
        self._copies: dict[str, PerStep] = {}
        self._acting: PerStep | None = self.drift
        self._data, self._knots = data, knots

    @property
    def half_precision(self) -> bool:
        return False

    @property
    def passes(self) -> int:
        return 1

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.drift.parameters())

    def encode(self, prompts: Sequence[str | None]) -> Conditioning:
        return Conditioning(text=torch.zeros(len(prompts), 1, 1))

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def predict(self, x: Tensor, step: Tensor, conditioning: Conditioning, guided: bool = True) -> Tensor:
        noise = self._exact_noise(x, self.transitions.alpha_bar[step].to(x.dtype).view(-1, 1, 1, 1))
        if self._acting is None:
            return noise
        # In units of the score: u = kappa (eps_theta - eps_#).
        return noise + self._acting(x, step) / self.transitions.score_weight(step, x).to(x.dtype)

    def pretrained(self, x: Tensor, step: Tensor, conditioning: Conditioning, guided: bool = True) -> Tensor:
        with self.using(None):
            return self.predict(x, step, conditioning, guided)

    @contextmanager
    def using(self, adapter: str | None) -> Iterator[None]:
        self._acting = None if adapter is None else self._copies[adapter]
        try:
            yield
        finally:
            self._acting = self.drift

    def snapshot(self, adapter: str, keep: float = 0.0) -> None:
        assert not keep, "nothing trails behind here"
        copy = self._copies.setdefault(adapter, PerStep(len(self.transitions), self._knots).requires_grad_(False))
        copy.load_state_dict(self.drift.state_dict())

    def _exact_noise(self, x: Tensor, alpha_bar: Tensor) -> Tensor:
        logits, pulls = [], []
        for weight, mean, variance in self._data:
            spread = alpha_bar * variance + 1 - alpha_bar
            pull = (alpha_bar.sqrt() * mean - x) / spread
            logits.append(np.log(weight) - 0.5 * spread * pull**2 - 0.5 * spread.log())
            pulls.append(pull)
        shares = torch.stack(logits).softmax(dim=0)
        return -(1 - alpha_bar).sqrt() * (shares * torch.stack(pulls)).sum(dim=0)


@dataclass(frozen=True)
class AnalyticReward:
    """sum over dimensions of slope x - (curvature / 2) (x - centre)^2."""

    slope: float = 0.0
    curvature: float = 0.0
    centre: float = 0.0

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.density(images).flatten(1).sum(dim=1)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        assert len(images) == len(prompts)
        return self.score(images, prompts), self.slope - self.curvature * (images - self.centre)

    def density(self, x: Tensor) -> Tensor:
        """The reward of one dimension."""
        return self.slope * x - self.curvature / 2 * (x - self.centre) ** 2


def make_flow(policy: AnalyticPolicy, config: FlowConfig, knots: int = 0) -> Flow:
    """A flow function with one function of x for each state."""
    states = len(policy.transitions) + 1
    return Flow(PerStep(states, knots), config, torch.arange(states))


def chain(policy: AnalyticPolicy) -> list[tuple[float, float, float]]:
    """(A, b, variance) of x_next = A x + b + noise at each step of the pretrained chain of `GAUSSIAN` data."""
    ((_, mean, variance),) = GAUSSIAN
    rows, tables = [], policy.transitions
    for step in range(len(tables)):
        alpha_bar, noise = float(tables.alpha_bar[step]), float(tables.output_weight[step])
        slope = (1 - alpha_bar) ** 0.5 / (alpha_bar * variance + 1 - alpha_bar)  # of eps in x
        factor = float(tables.state_weight[step]) + noise * slope
        rows.append((factor, -noise * slope * alpha_bar**0.5 * mean, float(tables.std[step]) ** 2))
    return rows


@torch.no_grad()
def draw(policy: AnalyticPolicy, reward: AnalyticReward, samples: int, groups: int, seed: int, version: int) -> Batch:
    """An on-policy batch with every transition stored; `samples` are shared out among `groups` prompts."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + version)
    conditioning = policy.encode([""] * samples)
    states, log_probs = [torch.randn(samples, *policy.latent_shape, generator=generator)], []
    for step in range(len(policy.transitions)):
        index = torch.full((samples,), step)
        mean = policy.transitions.mean(states[-1], policy.predict(states[-1], index, conditioning), index)
        std = policy.transitions.std_at(index, mean)
        states.append(mean + std * torch.randn(mean.shape, generator=generator))
        log_probs.append(log_prob(states[-1], mean, std))
    return Batch(
        latents=torch.stack(states[:-1], dim=1),
        next_latents=torch.stack(states[1:], dim=1),
        log_probs=torch.stack(log_probs, dim=1),
        steps=torch.arange(len(policy.transitions)),
        prompts=("",) * samples,
        groups=torch.arange(samples) % groups,
        rewards=reward.score(states[-1], [""] * samples),
        version=version,
        keys=np.array([(seed, version, number, number, number) for number in range(samples)], np.uint64),
    )


# ---------------------------------------------------------------------- laws on the grid


@torch.no_grad()
def law(policy: AnalyticPolicy, pretrained: bool = False) -> Tensor:
    """Density of the sampled x_0 on `GRID`, float64."""
    width = GRID[1] - GRID[0]
    density = torch.exp(-0.5 * GRID**2) / np.sqrt(2 * np.pi)
    x = GRID.view(-1, 1, 1, 1)
    for step in range(len(policy.transitions)):
        index = torch.full((len(GRID),), step)
        if pretrained:
            with policy.using(None):
                noise = policy.predict(x, index, policy.encode([""]))
        else:
            noise = policy.predict(x, index, policy.encode([""]))
        state_weight, output_weight = (
            t[step].double() for t in (policy.transitions.state_weight, policy.transitions.output_weight)
        )
        mean, std = (state_weight * x + output_weight * noise).flatten(), policy.transitions.std[step].double()
        kernel = torch.exp(-0.5 * ((GRID[:, None] - mean) / std) ** 2)
        kernel /= kernel.sum(dim=0).clamp(min=1e-300) * width  # also takes the last grid's rounding out
        density = kernel @ density * width
    return density / (density.sum() * width)


def tilted(density: Tensor, reward: AnalyticReward, beta: float) -> Tensor:
    """The target: density times exp(beta r), normalised."""
    target = density * torch.exp(beta * (reward.density(GRID) - reward.density(GRID).max()))
    return target / (target.sum() * (GRID[1] - GRID[0]))


@dataclass(frozen=True)
class Description:
    """A law in figures."""

    mean: float
    variance: float
    negative: float  # P(x < 0), the mass of the left mode
    divergence: float  # KL(law || target), nats


def describe(density: Tensor, target: Tensor) -> Description:
    """Mean, variance, mass of the left mode and the divergence from a target, by sums over `GRID`."""
    mass = density * (GRID[1] - GRID[0])
    mean = (mass * GRID).sum()
    known = (density > 1e-30) & (target > 1e-300)
    return Description(
        mean=float(mean),
        variance=float((mass * (GRID - mean) ** 2).sum()),
        negative=float(mass[GRID < 0].sum() + mass[GRID == 0].sum() / 2),
        divergence=float((mass[known] * (density[known] / target[known]).log()).sum()),
    )
