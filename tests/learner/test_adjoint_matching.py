"""Adjoint Matching: the lean adjoint, its exact pairing, the optima in closed form, and the chains that are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from actors.policy import Policy
from actors.rollout import chain as steps_of
from actors.transitions import Transitions
from benchmarks.analytic_world import AnalyticPolicy, AnalyticReward, chain, draw, make_flow
from learner.batch import Batch
from learner.flow_function import FlowConfig
from learner.objectives.adjoint_matching import AdjointMatching, AdjointMatchingConfig, matched_predictions
from learner.objectives.objective import Part, Plan
from learner.objectives.residual_nabla_db import ResidualNablaDB, ResidualNablaDBConfig
from tests.support.analytic_flow import AnalyticFlow, flow_chain, moments
from tests.support.curved import Curved


def slopes(policy: AnalyticPolicy) -> list[float]:
    """C: d E[x_0] / d x of every state under the pretrained chain, from x_T to the image."""
    found = [1.0]
    for factor, _, _ in reversed(chain(policy)):
        found.append(found[-1] * factor)
    return found[::-1]


def control(policy: Policy, batch: Batch, goals: Tensor) -> Tensor:
    """u of goals `(n, T, ...)`, in units of the score."""
    found = []
    with torch.no_grad(), policy.using(None):
        for column, step in enumerate(batch.steps):
            steps = step.expand(len(goals))
            prediction = policy.predict(batch.latents[:, column], steps, policy.encode(batch.prompts))
            found.append((goals[:, column] - prediction) * policy.transitions.score_weight(steps, prediction))
    return torch.stack(found, dim=1)


def test_every_step_is_stored_and_a_few_are_drawn() -> None:
    policy = AnalyticPolicy(50)
    objective = AdjointMatchingConfig(updates=2).build()
    objective.attach(policy, Curved())
    assert objective.plan(policy.transitions) == Plan(tuple(range(50)))
    batch = draw(policy, AnalyticReward(slope=1.0), 6, 1, seed=0, version=0)
    batch.rewards[2] = float("nan")  # was dropped
    parts = list(objective.parts(batch, torch.Generator().manual_seed(0)))
    assert sorted(torch.cat([part.samples for part in parts]).tolist()) == [0, 1, 3, 4, 5]
    assert all(part.columns.shape[1] == 4 for part in parts)  # one of every stratum
    assert all((part.columns // torch.tensor([1, 12, 25, 38]) >= torch.tensor([0, 1, 1, 1])).all() for part in parts)
    assert all((part.columns < torch.tensor([12, 25, 38, 50])).all() for part in parts)


def test_the_adjoint_is_the_gradient_of_the_image_that_the_same_noise_makes(
    policy: Policy, draw: Callable[..., Batch], nudge: Callable[..., None]
) -> None:
    """At the pretrained model; where the policy has gone since makes no difference to it."""
    batch, reward, beta = draw(policy, steps=(0, 1, 2, 3, 4)), Curved(), 0.7
    nudge(policy)
    goals = matched_predictions(policy, reward, batch, torch.arange(6), beta)
    found = control(policy, batch, goals)
    assert batch.keys is not None
    for first in range(1, 5):
        x = batch.latents[:, first].clone().requires_grad_()
        with policy.using(None):
            *_, last = steps_of(policy, x, policy.encode(batch.prompts), batch.keys, first_step=first)
        torch.testing.assert_close(last.x_next, batch.next_latents[:, -1], atol=1e-5, rtol=1e-5)
        score = beta * reward.score(policy.decode(last.x_next), batch.prompts).sum()
        (expected,) = torch.autograd.grad(score, x)
        assert expected.abs().max() > 1e-3
        # of the step that leads to the state
        torch.testing.assert_close(found[:, first - 1], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_the_loss_vanishes_at_the_exact_optimum_of_a_linear_reward() -> None:
    policy, beta, reward = AnalyticPolicy(10, dimensions=4), 1.5, AnalyticReward(slope=1.0)
    with torch.no_grad():
        policy.drift.table[:, 1] = beta * torch.tensor(slopes(policy)[1:])
    objective = AdjointMatchingConfig(beta=beta, step_fraction=1.0).build()
    objective.attach(policy, reward)
    batch, part = draw(policy, reward, 8, 1, seed=0, version=0), Part(torch.arange(8), torch.arange(10).expand(8, 10))
    assert objective.backward(policy, batch, part, 1000)["loss"] < 1e-10
    with torch.no_grad():
        policy.drift.table[3, 1] += 0.1
    std = float(policy.transitions.std[3])
    assert objective.backward(policy, batch, part, 1000)["loss"] == pytest.approx((0.1 * std) ** 2 / 10, rel=1e-3)


@pytest.mark.parametrize(
    ("steps", "exact", "released"), [(10, 0.7987893020, None), (50, 0.9551406273, 0.92824)]
)  # fmt: skip
def test_exact_pairing_finds_the_mean_and_the_released_one_misses_it(
    steps: int, exact: float, released: float | None
) -> None:
    """A linear reward 1.5 x, whose adjoint is 1.5 C: what the control of each step does to the mean, step by step."""
    policy, beta, reward = AnalyticPolicy(steps), 1.5, AnalyticReward(slope=1.0)
    batch = draw(policy, reward, 1, 1, seed=0, version=0)
    found = control(policy, batch, matched_predictions(policy, reward, batch, torch.arange(1), beta)).flatten()
    carried = torch.tensor(slopes(policy), dtype=torch.float64)
    torch.testing.assert_close(found.double(), beta * carried[1:], rtol=1e-3, atol=1e-4)

    def mean(control: Tensor) -> float:
        x = 0.0
        for (factor, shift, variance), push in zip(chain(policy), control.tolist(), strict=True):
            x = factor * x + shift + variance * push
        return x

    assert mean(found) == pytest.approx(exact, abs=2e-4)
    if released is not None:
        assert mean(beta * carried[:-1]) == pytest.approx(released, abs=2e-4)


def test_the_optimum_of_a_quadratic_reward_is_the_regression_of_the_adjoint() -> None:
    """On-policy at the exact control, over 50,000 samples, 50 steps (6.5 of the derivation)."""
    policy, beta, centre = AnalyticPolicy(50, dimensions=500), 4.0, 1.5
    carried, offset, spread = 1.0, 0.0, 0.0  # x_0 given the next state is N(carried x + offset, spread)
    exact = []
    for factor, shift, variance in reversed(chain(policy)):
        q = beta * carried**2 / (1 + beta * spread)
        pull = beta * carried * (centre - offset) / (1 + beta * spread)
        exact.append((-q * factor / (1 + q * variance), (pull - q * shift) / (1 + q * variance)))
        offset, spread, carried = offset + carried * shift, spread + carried**2 * variance, carried * factor
    with torch.no_grad():
        policy.drift.table.copy_(torch.tensor(exact[::-1]))
    reward = AnalyticReward(curvature=1.0, centre=centre)
    batch = draw(policy, reward, 100, 1, seed=0, version=0)
    found = control(policy, batch, matched_predictions(policy, reward, batch, torch.arange(100), beta))
    for t, slope, constant in ((1, -3.9854, 5.9851), (5, -2.5598, 4.2871), (20, -0.2663, 0.8654)):
        assert exact[t - 1] == pytest.approx((slope, constant), abs=2e-4)
        x, u = batch.latents[:, 50 - t].flatten().double(), found[:, 50 - t].flatten().double()
        fitted = float(((x - x.mean()) * (u - u.mean())).mean() / x.var(correction=0))
        assert fitted == pytest.approx(slope, abs=0.01)
        assert float(u.mean() - fitted * x.mean()) == pytest.approx(constant, abs=0.02)


def test_its_gradient_is_residual_nabla_dbs_where_the_flow_function_is_exact() -> None:
    policy, beta, reward, steps = AnalyticPolicy(10, dimensions=4), 1.5, AnalyticReward(slope=1.0), 10
    torch.nn.init.normal_(policy.drift.table, std=0.3)
    flow, carried = make_flow(policy, FlowConfig()), slopes(policy)
    alpha_bar = policy.transitions.alpha_bar[:-1]
    # of the predicted image in the state, as the pretrained model and this policy see it
    kappa, drift = policy.transitions.score_weight(torch.arange(10), torch.zeros(10)), policy.drift.table.detach()[:, 0]
    guess = (1 - alpha_bar).sqrt() / kappa * drift
    jacobian = alpha_bar.sqrt() * 0.36 / (alpha_bar * 0.36 + 1 - alpha_bar) - guess / alpha_bar.sqrt()
    with torch.no_grad():
        flow.network.table[:-1, 1] = beta * (torch.tensor(carried[:-1]) - jacobian)
    batch, part = draw(policy, reward, 8, 1, 0, 0), Part(torch.arange(8), torch.arange(steps).expand(8, steps))
    found = []
    for objective in (
        AdjointMatching(AdjointMatchingConfig(beta=beta, step_fraction=1.0)),
        ResidualNablaDB(ResidualNablaDBConfig(beta=beta, step_fraction=1.0, gamma="one", weighting="variance"), flow),
    ):
        objective.attach(policy, reward)
        policy.drift.table.grad = None
        metrics = objective.backward(policy, batch, part, 1000)
        found.append((policy.drift.table.grad, metrics.get("loss/forward", metrics["loss"])))
    assert found[0][1] > 1e-3
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-4)
    torch.testing.assert_close(*(gradient for gradient, _ in found), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("micro_batch", [30, 4])
def test_samples_that_cannot_be_judged_take_no_part(
    policy: Policy, draw: Callable[..., Batch], nudge: Callable[..., None], micro_batch: int
) -> None:
    nudge(policy)
    batch = draw(policy, steps=(0, 1, 2, 3, 4))
    every = torch.arange(5)

    def gradient(rows: list[int], reward: Curved, at_a_time: int) -> tuple[Tensor, dict[str, float]]:
        objective = AdjointMatchingConfig(step_fraction=1.0).build()
        objective.attach(policy, reward)
        for parameter in policy.parameters:
            parameter.grad = None
        part = Part(torch.tensor(rows), every.expand(len(rows), 5))
        metrics = objective.backward(policy, batch, part, at_a_time)
        return torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None]), metrics

    expected, of_judged = gradient([0, 1, 3], Curved(), 30)
    found, metrics = gradient([0, 1, 2, 3], Curved(2), micro_batch)
    torch.testing.assert_close(found, expected * 3 / 4, rtol=2e-3, atol=1e-7)
    assert metrics["unjudged"] == pytest.approx(1 / 4)
    assert metrics["loss"] == pytest.approx(of_judged["loss"] * 3 / 4, rel=1e-4)


# ---------------------------------------------------------------------- memoryless chains


def memory(transitions: Transitions) -> float:
    """Correlation of x_0 with x_T where the network knows the data."""
    carried, variance = 1.0, 0.0
    for factor, _, noise in zip(*moments(transitions), strict=True):
        carried, variance = factor * carried, factor**2 * variance + noise
    return carried / (carried**2 + variance) ** 0.5


@pytest.mark.parametrize(("steps", "mean"), [(20, 0.9118), (50, 0.9793)])
def test_it_finds_the_tilt_of_a_flow_model(steps: int, mean: float) -> None:
    """The exact posterior's chain to a noise of .001 forgets its start, so the mean is the tilt's, M + 1.5 V."""
    policy, reward = AnalyticFlow(flow_chain(steps, "ddpm", last=1e-3)), AnalyticReward(slope=1.0)
    batch, x = draw(policy, reward, 1, 1, seed=0, version=0), 0.0
    found = control(policy, batch, matched_predictions(policy, reward, batch, torch.arange(1), 1.5)).flatten()
    for factor, shift, variance, push in zip(*moments(policy.transitions), found.tolist(), strict=True):
        x = factor * x + shift + variance * push
    assert x == pytest.approx(mean, abs=3e-4)


def test_memoryless_chains_are_those_whose_image_forgets_the_start() -> None:
    root = 2**0.5
    forgets = [
        flow_chain(20, "ddpm", last=1e-3),
        flow_chain(20, "ddim", last=1e-3),
        flow_chain(20, "flow_sde", root, last=1e-3),
    ]
    remembers = [flow_chain(20, s, eta, last=1e-3) for s, eta in (("ddim", 0.5), ("flow_sde", 0.7), ("dance_sde", 0.3))]
    assert all(chain.is_memoryless for chain in forgets)
    assert not any(chain.is_memoryless for chain in remembers)
    assert max(abs(memory(chain)) for chain in forgets) < 0.05
    assert min(abs(memory(chain)) for chain in remembers) > 0.2
    assert not replace(forgets[0], first_step=5).is_memoryless
    assert AnalyticPolicy(50).transitions.is_memoryless
    assert flow_chain(20, "flow_sde", 1.4142, last=1e-3).is_memoryless


def test_chains_that_remember_their_start_are_refused() -> None:
    asks = AdjointMatchingConfig.asks
    asks.check("adjoint_matching", flow_chain(8, "ddpm", last=1e-3))
    for chain_ in (
        flow_chain(8, "flow_sde", last=1e-3),
        flow_chain(8, "cps", last=1e-3),
        replace(flow_chain(8, "ddpm", last=1e-3), first_step=2),
    ):
        with pytest.raises(ValueError, match=r"may not remember where it began: that takes all of DDPM's noise"):
            asks.check("adjoint_matching", chain_)
    with pytest.raises(ValueError, match=r"needs noise in every step"):
        asks.check("adjoint_matching", flow_chain(8, "ddpm", last=1e-3, noisy=(0, 4)))
    with pytest.raises(ValueError, match=r"policy.final_sigma"):
        asks.check("adjoint_matching", flow_chain(8, "ddpm"))


def test_each_network_evaluation_is_counted(policy: Policy, draw: Callable[..., Batch]) -> None:
    """Of a guided prediction two: the chain of the pretrained model, and the policy at each transition drawn."""
    batch, objective = draw(policy, steps=(0, 1, 2, 3, 4)), AdjointMatchingConfig(step_fraction=0.4).build()
    objective.attach(policy, Curved())
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    before = policy.evaluations
    objective.backward(policy, batch, part, 4)
    assert part.columns.shape == (6, 2)
    assert policy.evaluations - before == 2 * 6 * (5 + 2)
