"""What each method converges to where the answer is known: `python -m benchmarks.posteriors [--out picture.png]`.

Trains the learner's own objectives on `benchmarks.analytic_world` and prints one table; draws the densities of the
mixture. Takes minutes on one core.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

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
from learner.objectives.dag_db import DAGDB
from learner.objectives.objective import Objective
from learner.objectives.ppod import PPOD, PPODConfig
from learner.objectives.refl import ReFL, ReFLConfig
from learner.objectives.residual_db import ResidualDB, ResidualDBConfig
from learner.objectives.residual_nabla_db import ResidualNablaDB, ResidualNablaDBConfig
from learner.objectives.residual_nabla_db_release import ResidualNablaDBReleaseConfig

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FLOW = FlowConfig(lr=1e-2, weight_decay=0.0, betas=(0.9, 0.99), max_grad_norm=1e6)


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
    for iteration in tqdm(range(iterations), desc=f"{objective.config.name}, {world.steps} steps", leave=False):
        fall = min(1.0, 2 * (1 - iteration / iterations)) ** 2
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * max(fall, 1e-3)
        learner.step(draw(policy, world.reward, samples, groups, seed, iteration))
    return policy


def outcome(world: World, policy: AnalyticPolicy) -> Description:
    """What the policy samples, against the ideal tilt of what the pretrained chain samples."""
    return describe(law(policy), tilted(law(policy, pretrained=True), world.reward, world.beta))


def linear_sections() -> list[tuple[str, World, AnalyticPolicy]]:
    """The linear-Gaussian worlds."""
    rows = [("residual_nabla_db, linear, N = 10", LINEAR_10, train(LINEAR_10, nabla, 1500, lr=5e-2))]
    rows += [("residual_nabla_db, linear, N = 50", LINEAR_50, train(LINEAR_50, nabla, 4000, samples=32, lr=1e-2))]
    rows += [("adjoint_matching, linear, N = 10", LINEAR_10, train(LINEAR_10, adjoint, 150, lr=5e-2))]
    rows += [("adjoint_matching, linear, N = 50", LINEAR_50, train(LINEAR_50, adjoint, 300, samples=32, lr=2e-2))]
    for name, make in (
        ("residual_nabla_db", nabla),
        ("the release, reverse loss on every transition", lambda w, p: release(w, p, reverse_on_last=True)),
        ("the release as it is", release),
        ("no_flow, gamma = alpha_bar", lambda w, p: nabla(w, p, no_flow=True)),
        ("adjoint_matching", adjoint),
    ):
        rows.append((f"{name}, quadratic, N = 10", QUADRATIC_10, train(QUADRATIC_10, make, 2000, lr=5e-2)))
    return rows


def mixture_sections() -> list[tuple[str, World, AnalyticPolicy]]:
    """The two-component mixture; the last two do not aim at the posterior."""
    world = MIXTURE_50

    def residual_db(world: World, policy: AnalyticPolicy) -> DAGDB:
        flow = make_flow(policy, FLOW, world.knots)
        flow.network = _Scalar(flow.network)
        return ResidualDB(ResidualDBConfig(beta=world.beta), flow)

    def ppod(world: World, policy: AnalyticPolicy) -> PPOD:
        return PPOD(PPODConfig(beta=1.0, clip_range=1e-2, kl_weight=0.0))

    return [
        ("residual_nabla_db", world, train(world, nabla, 4000, samples=32, lr=1e-2)),
        ("adjoint_matching", world, train(world, adjoint, 600, samples=32, lr=2e-2)),
        (
            "no_flow, gamma = 1",
            world,
            train(world, lambda w, p: nabla(w, p, no_flow=True, gamma="one"), 2000, samples=32, lr=1e-2),
        ),
        ("residual_db", world, train(world, residual_db, 2000, samples=128, dimensions=1, lr=1e-2)),
        ("ppod", world, train(world, ppod, 200, samples=64, dimensions=1, groups=4, lr=1e-2)),
        ("refl", world, train(world, lambda w, p: ReFL(ReFLConfig()), 200, lr=1e-2)),
    ]


class _Scalar(torch.nn.Module):
    """A per-step function of a one-dimensional state as a scalar flow."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor, step: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        return self.inner(x, step).flatten(1).sum(dim=1)


def picture(rows: list[tuple[str, World, AnalyticPolicy]], path: Path) -> None:
    """Densities of the mixture's rows, with the prior and the target."""
    prior = law(rows[0][2], pretrained=True)
    figure, axis = plt.subplots(figsize=(9, 4.2), layout="constrained")
    axis.fill_between(GRID, prior, color="0.85", label="pretrained")
    axis.plot(GRID, tilted(prior, MIXTURE_50.reward, MIXTURE_50.beta), "k--", label="target: pretrained x exp(beta r)")
    for name, _, policy in rows:
        axis.plot(GRID, law(policy), label=name, linewidth=1.3)
    axis.set(xlim=(-3.5, 5), ylim=(0, 1.2), xlabel="x", ylabel="density", title="Reward r(x) = x, beta = 0.5")
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """The command line."""
    parser = Parser("benchmarks.posteriors", __doc__ or "")
    parser.add_argument("--out", type=Path, default=Path("posteriors.png"), help="picture to write")
    args = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    mixture = mixture_sections()
    for title, rows in (("Gaussian prior", linear_sections()), ("Mixture prior", mixture)):
        table = Table("method", "mean", "variance", "P(x < 0)", "KL to the target", title=title)
        ideal = None
        for name, world, policy in rows:
            target = tilted(law(policy, pretrained=True), world.reward, world.beta)
            found = describe(law(policy), target)
            table.add_row(name, *_figures(found))
            if world is not ideal:
                ideal = world
                table.add_row("  its target", *_figures(describe(target, target)), style="dim")
        console.print(table)
    picture(mixture, args.out)
    console.print(f"picture: {args.out}")


def _figures(found: Description) -> list[str]:
    return [f"{value:.4f}" for value in (found.mean, found.variance, found.negative, found.divergence)]


if __name__ == "__main__":
    main()
