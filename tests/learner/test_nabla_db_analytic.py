"""nabla-DB where everything is known in closed form: score identities, a sum over dimensions, and the exact optimum."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.analytic_world import AnalyticPolicy, AnalyticReward, chain, make_flow
from benchmarks.analytic_world import draw as draw_analytic
from learner.flow_function import FlowConfig
from learner.objectives.nabla_db import predict_piece
from learner.objectives.objective import Part
from learner.objectives.residual_nabla_db import ResidualNablaDB, ResidualNablaDBConfig


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_expected_scores_are_the_means_of_the_sampled_ones(eta: float) -> None:
    world = AnalyticPolicy(10, dimensions=1)
    torch.nn.init.normal_(world.drift.table, std=0.5)
    step, draws = 4, 400_000
    one = draw_analytic(world, AnalyticReward(slope=1.0), 1, 1, seed=0, version=0)
    piece = predict_piece(world, one, torch.tensor([0]), torch.tensor([step]))
    noise = torch.randn(draws, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    repeated = replace(
        one,
        latents=one.latents.expand(draws, -1, -1, -1, -1),
        next_latents=(piece.mean.detach() + piece.std * noise)[:, None].expand(-1, 10, -1, -1, -1),
        prompts=("",) * draws,
    )
    many = predict_piece(world, repeated, torch.arange(draws), torch.full((draws,), step))
    settings = {"prior_strength": eta, "no_flow": False}
    forward, reverse = ResidualNablaDBConfig(**settings, expected_scores=False).build().scores(world, many)
    expected = ResidualNablaDBConfig(**settings).build().scores(world, many)
    for sampled, mean in zip((forward, reverse), expected, strict=True):
        assert sampled is not None
        assert mean is not None
        error = 4 * float(sampled.detach().std()) / draws**0.5
        assert float(mean.detach().std()) < 1e-5  # no sampled noise in it
        assert float(sampled.detach().mean()) == pytest.approx(float(mean.detach().mean()), abs=error + 1e-4)


def test_copies_of_a_dimension_leave_every_loss_as_it_is() -> None:
    one, two = AnalyticPolicy(10, dimensions=3), AnalyticPolicy(10, dimensions=6)
    reward, found = AnalyticReward(curvature=1.0, centre=1.5), []
    batch = draw_analytic(one, reward, 8, 1, seed=0, version=0)
    doubled = replace(
        batch, latents=batch.latents.repeat(1, 1, 1, 1, 2), next_latents=batch.next_latents.repeat(1, 1, 1, 1, 2)
    )
    part = Part(torch.arange(8), torch.arange(10).expand(8, 10))
    for policy, these in ((one, batch), (two, doubled)):
        with torch.no_grad():
            policy.drift.table.fill_(0.3)
        flow = make_flow(policy, FlowConfig())
        with torch.no_grad():
            flow.network.table.fill_(-0.2)
        objective = ResidualNablaDB(ResidualNablaDBConfig(step_fraction=1.0, beta=4.0), flow)
        objective.attach(policy, reward)
        found.append(objective.backward(policy, these, part, 1000))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_losses_vanish_at_the_exact_optimum_of_a_linear_reward() -> None:
    policy, beta = AnalyticPolicy(10, dimensions=4), 1.5
    steps = len(policy.transitions)
    slopes = [1.0]  # C_t: d E[x_0] / d x_t, from the image to the noise
    for factor, _, _ in reversed(chain(policy)):
        slopes.append(slopes[-1] * factor)
    slopes.reverse()  # by state: slopes[j] of state j
    flow = make_flow(policy, FlowConfig())
    with torch.no_grad():
        for step in range(steps):
            policy.drift.table[step, 1] = beta * slopes[step + 1]
            alpha_bar = float(policy.transitions.alpha_bar[step])
            jacobian = alpha_bar**0.5 * 0.36 / (alpha_bar * 0.36 + 1 - alpha_bar)
            flow.network.table[step, 1] = beta * (slopes[step] - alpha_bar * jacobian)
    objective = ResidualNablaDB(ResidualNablaDBConfig(step_fraction=1.0, beta=beta), flow)
    reward = AnalyticReward(slope=1.0)
    objective.attach(policy, reward)
    batch = draw_analytic(policy, reward, 64, 1, seed=0, version=0)
    metrics = objective.backward(policy, batch, Part(torch.arange(64), torch.arange(steps).expand(64, steps)), 1000)
    assert metrics["size/reward_gradient"] > 0.1
    for name in ("forward", "reverse", "terminal"):
        assert metrics[f"loss/{name}"] < 1e-8
    # The method's own figures, section 6.1 of the derivation: C_10 = .043072, G_5 = .48240.
    assert slopes[0] == pytest.approx(0.043072, abs=1e-5)
    assert beta * slopes[5] == pytest.approx(0.48240, abs=1e-4)
