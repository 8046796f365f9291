"""What each method converges to where the answer is known: `python -m benchmarks.posteriors [--out picture.png]`.

Trains the learner's own objectives on `benchmarks.analytic_world` and prints two tables; draws the densities of the
mixture. About twenty minutes of one core in all; rows are trained side by side, each in a process of its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.analytic_world import (
    GAUSSIAN,
    GRID,
    MIXTURE,
    AnalyticPolicy,
    AnalyticReward,
    Description,
    describe,
    draw,
    law,
    make_flow,
    tilted,
)
from cluster.arguments import Parser
from learner.flow_function import FlowConfig
from learner.learner import Learner, LearnerConfig
from learner.objectives.adjoint_matching import AdjointMatching, AdjointMatchingConfig
from learner.objectives.draft import DRaFT, DRaFTConfig
from learner.objectives.elegant import ELEGANT, ELEGANTConfig
from learner.objectives.objective import Objective
from learner.objectives.ppod import PPOD, PPODConfig
from learner.objectives.refl import ReFL, ReFLConfig
from learner.objectives.residual_db import ResidualDB, ResidualDBConfig
from learner.objectives.residual_nabla_db import ResidualNablaDB, ResidualNablaDBConfig
from learner.objectives.residual_nabla_db_release import ResidualNablaDBReleaseConfig

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FLOW = FlowConfig(lr=1e-2, weight_decay=0.0, betas=(0.9, 0.99), max_grad_norm=1e6)


# A batch of 1,024 numbers, where what a sample costs counts: its noise has a key of its own.
WIDE = {"samples": 4, "dimensions": 256}


@dataclass(frozen=True)
class World:
    """A prior, a chain and a reward."""

    steps: int
    reward: AnalyticReward
    beta: float
    data: tuple[tuple[float, float, float], ...] = GAUSSIAN
    knots: int = 0  # of drift and flow function


LINEAR_10 = World(10, AnalyticReward(slope=1.0), beta=1.5)
LINEAR_50 = World(50, AnalyticReward(slope=1.0), beta=1.5)
QUADRATIC_10 = World(10, AnalyticReward(curvature=1.0, centre=1.5), beta=4.0)
MIXTURE_50 = World(50, AnalyticReward(slope=1.0), beta=0.5, data=MIXTURE, knots=41)


def nabla(world: World, policy: AnalyticPolicy, **options: object) -> ResidualNablaDB:
    """Residual nabla-DB, exact unless `options` say otherwise."""
    settings = {"step_fraction": 1.0, "updates": 1, "weighting": "variance", **options}
    config = ResidualNablaDBConfig(beta=world.beta, **settings)
    return ResidualNablaDB(config, None if config.no_flow else make_flow(policy, FLOW, world.knots))


def release(world: World, policy: AnalyticPolicy, **options: object) -> ResidualNablaDB:
    """The published code's choices; on every transition, without its lag and regulariser, which move no fixed point."""
    settings = {"step_fraction": 1.0, "updates": 1, "lag": 0, "regularisation": 0.0, **options}
    config = ResidualNablaDBReleaseConfig(beta=world.beta, flow=FlowConfig(), **settings)
    return ResidualNablaDB(config, make_flow(policy, FLOW, world.knots))


def adjoint(world: World, policy: AnalyticPolicy) -> AdjointMatching:
    """Adjoint Matching on every transition."""
    return AdjointMatching(AdjointMatchingConfig(beta=world.beta, step_fraction=1.0))


def elegant(world: World, policy: AnalyticPolicy) -> ELEGANT:
    """Entropy-regularised control, keeping the graph, which is small here."""
    return ELEGANT(ELEGANTConfig(beta=world.beta, checkpointing=False))


def draft(world: World, policy: AnalyticPolicy) -> DRaFT:
    """DRaFT through the whole chain; it has no beta."""
    return DRaFT(DRaFTConfig(steps=None, checkpointing=False))


def refl(world: World, policy: AnalyticPolicy) -> ReFL:
    """ReFL, which has no beta either."""
    return ReFL(ReFLConfig())


def residual_db(world: World, policy: AnalyticPolicy) -> ResidualDB:
    """Residual DB with a scalar flow function."""
    flow = make_flow(policy, FLOW, world.knots)
    flow.network = _Scalar(flow.network)
    return ResidualDB(ResidualDBConfig(beta=world.beta), flow)


def ppod(world: World, policy: AnalyticPolicy) -> PPOD:
    """PPOD without a KL penalty."""
    return PPOD(PPODConfig(beta=1.0, clip_range=1e-2, kl_weight=0.0))


def train(
    world: World,
    make: Callable[[World, AnalyticPolicy], Objective],
    iterations: int,
    samples: int = 64,
    dimensions: int = 32,
    groups: int = 1,
    lr: float = 1e-2,
    seed: int = 0,
) -> AnalyticPolicy:
    """Train on-policy with the learner; the last half at falling learning rates.

    Args:
        world: What to sample.
        make: Makes the objective.
        iterations: Batches, one optimizer step each.
        samples: Of a batch.
        dimensions: Independent copies in a sample.
        groups: Prompts of a batch, for objectives that compare samples.
        lr: Of the drift and its flow function.
        seed: Of the samples.
    """
    policy = AnalyticPolicy(world.steps, world.data, dimensions, world.knots)
    objective = make(world, policy)
    config = LearnerConfig(
        lr=lr, betas=(0.9, 0.99), weight_decay=0.0, max_grad_norm=1e6, micro_batch=1_000_000, ema_decay=0.0
    )
    learner = Learner(config, policy, objective, seed, world.reward)
    optimizers = [learner.optimizer, *(module.optimizer for module in objective.modules.values())]
    for iteration in range(iterations):
        fall = min(1.0, 2 * (1 - iteration / iterations)) ** 2
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * max(fall, 1e-3)
        learner.step(draw(policy, world.reward, samples, groups, seed, iteration))
    return policy


def outcome(world: World, policy: AnalyticPolicy) -> Description:
    """What the policy samples, against the ideal tilt of what the pretrained chain samples."""
    return describe(law(policy), tilted(law(policy, pretrained=True), world.reward, world.beta))


@dataclass(frozen=True)
class Row:
    """What is trained for a row of a table."""

    name: str
    world: World
    make: Callable[[World, AnalyticPolicy], Objective]
    iterations: int
    settings: Mapping[str, Any] = field(default_factory=dict)  # of `train`

    def laws(self) -> tuple[Tensor, Tensor, float]:
        """Densities on `GRID` of what the trained policy samples and of its target; and the seconds that it took."""
        began = time.monotonic()
        policy = train(self.world, self.make, self.iterations, **self.settings)
        target = tilted(law(policy, pretrained=True), self.world.reward, self.world.beta)
        return law(policy), target, time.monotonic() - began


def gaussian_rows() -> list[Row]:
    """The worlds of one Gaussian; only DRaFT, the last, does not aim at the posterior."""
    fast, slow = {"lr": 5e-2}, {"samples": 32, "lr": 2e-2}
    every_transition = partial(release, reverse_on_last=True)
    return [
        Row("residual_nabla_db, linear, N = 10", LINEAR_10, nabla, 1500, fast),
        Row("adjoint_matching, linear, N = 10", LINEAR_10, adjoint, 150, fast),
        Row("elegant, linear, N = 10", LINEAR_10, elegant, 150, {**WIDE, "lr": 5e-2}),
        Row("residual_nabla_db, linear, N = 50", LINEAR_50, nabla, 4000, {"samples": 32, "lr": 1e-2}),
        Row("adjoint_matching, linear, N = 50", LINEAR_50, adjoint, 300, slow),
        Row("elegant, linear, N = 50", LINEAR_50, elegant, 300, {**WIDE, "lr": 2e-2}),
        Row("residual_nabla_db, quadratic, N = 10", QUADRATIC_10, nabla, 2000, fast),
        Row("the release, reverse loss on every transition, quadratic", QUADRATIC_10, every_transition, 2000, fast),
        Row("the release as it is, quadratic", QUADRATIC_10, release, 2000, fast),
        Row("no_flow, gamma = alpha_bar, quadratic", QUADRATIC_10, partial(nabla, no_flow=True), 2000, fast),
        Row("adjoint_matching, quadratic, N = 10", QUADRATIC_10, adjoint, 2000, fast),
        Row("elegant, quadratic, N = 10", QUADRATIC_10, elegant, 400, {**WIDE, "lr": 5e-2}),
        Row("draft, quadratic, N = 10", QUADRATIC_10, draft, 2000, {**WIDE, "lr": 5e-2}),
    ]


def mixture_rows() -> list[Row]:
    """The two-component mixture; the last three do not aim at the posterior."""
    world = MIXTURE_50
    slow, alone = {"samples": 32, "lr": 1e-2}, {"dimensions": 1, "lr": 1e-2}
    return [
        Row("residual_nabla_db", world, nabla, 4000, slow),
        Row("adjoint_matching", world, adjoint, 600, {"samples": 32, "lr": 2e-2}),
        Row("elegant", world, elegant, 600, {**WIDE, "lr": 2e-2}),
        Row("no_flow, gamma = 1", world, partial(nabla, no_flow=True, gamma="one"), 2000, slow),
        Row("residual_db", world, residual_db, 2000, {"samples": 128, **alone}),
        Row("ppod", world, ppod, 200, {"samples": 64, "groups": 4, **alone}),
        Row("refl", world, refl, 200, {"lr": 1e-2}),
        Row("draft", world, draft, 200, {**WIDE, "lr": 1e-2}),
    ]


class _Scalar(torch.nn.Module):
    """A per-step function of a one-dimensional state as a scalar flow."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, step: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        return self.inner(x, step).flatten(1).sum(dim=1)


def picture(rows: list[tuple[Row, Tensor]], path: Path) -> None:
    """Densities of the mixture's rows, with the prior and the target."""
    prior = law(AnalyticPolicy(MIXTURE_50.steps, MIXTURE_50.data), pretrained=True)
    figure, axis = plt.subplots(figsize=(9, 4.2), layout="constrained")
    axis.fill_between(GRID, prior, color="0.85", label="pretrained")
    axis.plot(GRID, tilted(prior, MIXTURE_50.reward, MIXTURE_50.beta), "k--", label="target: pretrained x exp(beta r)")
    for row, density in rows:
        axis.plot(GRID, density, label=row.name, linewidth=1.3)
    axis.set(xlim=(-3.5, 5), ylim=(0, 1.2), xlabel="x", ylabel="density", title="Reward r(x) = x, beta = 0.5")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """The command line."""
    parser = Parser("benchmarks.posteriors", __doc__ or "")
    parser.add_argument("--out", type=Path, default=Path("posteriors.png"), help="picture to write")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="rows that are trained at a time")
    args = parser.parse_args()
    console, mixture = Console(), mixture_rows()
    rows = [*mixture, *gaussian_rows()]
    with ProcessPoolExecutor(args.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        found = []
        for row, laws in zip(rows, pool.map(Row.laws, rows), strict=True):
            console.print(f"{row.name}: {row.iterations} updates, {laws[2]:.0f} s", style="dim", highlight=False)
            found.append((row, laws))
    for title, some in (("Gaussian prior", found[len(mixture) :]), ("Mixture prior", found[: len(mixture)])):
        table = Table("method", "mean", "variance", "P(x < 0)", "KL to the target", title=title)
        known: list[World] = []
        for row, (density, target, _) in some:
            table.add_row(row.name, *_figures(describe(density, target)))
            if row.world not in known:
                known.append(row.world)
                table.add_row("  its target", *_figures(describe(target, target)), style="dim")
        console.print(table)
    picture([(row, density) for row, (density, _, _) in found[: len(mixture)]], args.out)
    console.print(f"picture: {args.out}")


def _figures(found: Description) -> list[str]:
    return [f"{value:.4f}" for value in (found.mean, found.variance, found.negative, found.divergence)]


if __name__ == "__main__":
    main()
