"""ELEGANT: the gradient of a whole chain's KL to the tilt, its optima in closed form, and what a learned start adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import chain as steps_of
from actors.rollout import noise
from actors.transitions import log_prob
from benchmarks.analytic_world import AnalyticPolicy, AnalyticReward, chain, draw
from benchmarks.posteriors import LINEAR_10, elegant, outcome, train
from learner.batch import Batch
from learner.objectives.elegant import ELEGANTConfig, controlled_chain
from learner.objectives.objective import Objective, Part, Plan
from tests.learner.rank_process import CASES, Start
from tests.learner.rank_process import draw as draw_seven
from tests.support.analytic_flow import flow_chain
from tests.support.curved import Curved

Draw = Callable[..., Batch]
Nudge = Callable[..., None]


def attached(config: ELEGANTConfig, policy: Policy, reward: Any) -> Objective:
    objective = config.build()
    objective.attach(policy, reward)
    return objective


def gradient(objective: Objective, policy: Policy, batch: Batch, rows: list[int], size: int) -> tuple[Tensor, Any]:
    for parameter in policy.parameters:
        parameter.grad = None
    metrics = objective.backward(policy, batch, Part(torch.tensor(rows), torch.tensor([0])), size)
    return torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None]), metrics


def test_the_start_of_each_chain_is_kept_and_shares_are_of_samples() -> None:
    policy = AnalyticPolicy(10)
    objective = attached(ELEGANTConfig(updates=2), policy, AnalyticReward(slope=1.0))
    assert objective.plan(policy.transitions) == Plan((0,))
    assert objective.trained_steps(policy.transitions) == tuple(range(10))
    batch = draw(policy, AnalyticReward(slope=1.0), 6, 1, seed=0, version=0)
    batch.rewards[2] = float("nan")  # was dropped
    parts = list(objective.parts(batch, torch.Generator().manual_seed(0)))
    assert [len(part.samples) for part in parts] == [3, 2]
    assert sorted(torch.cat([part.samples for part in parts]).tolist()) == [0, 1, 3, 4, 5]
    assert all(part.columns.tolist() == [0] for part in parts)


# ---------------------------------------------------------------------- the gradient


@pytest.mark.parametrize("adapted", [None, 3])
def test_the_loss_is_the_log_ratio_of_the_chain_to_the_tilted_one_in_the_mean(
    policy: Policy, draw: Draw, nudge: Nudge, adapted: int | None
) -> None:
    """KL_t is the mean over the noise of the step's log-ratio; at the sampler's weights the sampler's image comes out.

    Over the noise z of a step the log-ratio is KL_t + c z, so with z and -z it is KL_t exactly.
    """
    nudge(policy)
    policy.transitions = replace(policy.transitions, adapted=adapted)
    batch = draw(policy, steps=(0, 1, 2, 3, 4))
    rows = torch.tensor([0, 2, 5])
    latents, kl = controlled_chain(policy, batch, rows, True)
    torch.testing.assert_close(latents, batch.next_latents[rows, -1], rtol=1e-4, atol=1e-5)
    assert batch.keys is not None
    told, expected = policy.encode([batch.prompts[row] for row in rows.tolist()]), torch.zeros(3)
    with torch.no_grad():
        for step in steps_of(policy, batch.latents[rows, 0], told, batch.keys[rows.numpy()]):
            index, size = torch.full((3,), step.number), step.x[0].numel()
            before = policy.transitions.mean(step.x, policy.pretrained(step.x, index, told), index)
            for sign in (1, -1):
                x_next = step.mean + sign * step.std * noise(batch.keys[rows.numpy()], 1, step.x.shape[1:])
                ratio = log_prob(x_next, step.mean, step.std) - log_prob(x_next, before, step.std)
                expected += size * ratio / 2
    torch.testing.assert_close(kl.detach(), expected, rtol=2e-3, atol=1e-3)
    assert (kl > 0.1).all()


def test_samples_that_cannot_be_judged_take_no_part(policy: Policy, draw: Draw, nudge: Nudge) -> None:
    nudge(policy)
    batch, config = draw(policy, steps=(0,)), ELEGANTConfig(beta=2.0)
    picky = attached(config, policy, Curved(0))  # not the first of a micro-batch
    for size, rows, judged in ((30, [2, 0, 1, 3], [0, 1, 3]), (2, [2, 0, 4, 1], [0, 1])):
        expected, of_judged = gradient(attached(config, policy, Curved()), policy, batch, judged, 30)
        found, metrics = gradient(picky, policy, batch, rows, size)
        share = len(judged) / 4
        torch.testing.assert_close(found, share * expected, rtol=2e-3, atol=1e-4 * float(expected.abs().max()))
        assert metrics["unjudged"] == pytest.approx(1 - share)
        assert metrics["loss"] == pytest.approx(share * of_judged["loss"], rel=1e-4)


def test_the_networks_own_checkpointing_changes_no_gradient(tiny_pipeline: Any) -> None:
    """Where the pretrained model's inside is computed again when the policy acts already, it would."""
    settings = {"model": str(tiny_pipeline), "device": "cpu", "steps": 5, "lora_rank": 2, "lora_alpha": 2}
    found = []
    for inner in (False, True):
        start = Start(PolicyConfig(**settings, checkpointing=inner))
        for case in ("elegant", "elegant, kept"):
            made = start.learner(case)
            found.append(gradient(made._objective, start.policy, draw_seven(start.policy), [0, 1, 4], 2)[0])
    assert found[0].abs().max() > 0
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-7 * float(found[0].abs().max()))
    assert CASES["elegant, kept"]["checkpointing"] is False


# ---------------------------------------------------------------------- optima


def slopes(policy: AnalyticPolicy) -> Tensor:
    """C: d E[x_0] / d x of every state under the pretrained chain, from x_T to the image."""
    found = [1.0]
    for factor, _, _ in reversed(chain(policy)):
        found.append(found[-1] * factor)
    return torch.tensor(found[::-1])


def quadratic_control(policy: AnalyticPolicy, beta: float, centre: float) -> Tensor:
    """The optimal drift (slope, constant) of each step for -(x - centre)^2 / 2."""
    carried, offset, spread, found = 1.0, 0.0, 0.0, []  # x_0 given the next state is N(carried x + offset, spread)
    for factor, shift, variance in reversed(chain(policy)):
        q = beta * carried**2 / (1 + beta * spread)
        pull = beta * carried * (centre - offset) / (1 + beta * spread)
        found.append((-q * factor / (1 + q * variance), (pull - q * shift) / (1 + q * variance)))
        offset, spread, carried = offset + carried * shift, spread + carried**2 * variance, carried * factor
    return torch.tensor(found[::-1])


def test_the_gradient_vanishes_at_the_optimum_of_a_linear_reward_sample_by_sample() -> None:
    policy, beta, reward = AnalyticPolicy(10, dimensions=4), 1.5, AnalyticReward(slope=1.0)
    objective = attached(ELEGANTConfig(beta=beta), policy, reward)
    batch = draw(policy, reward, 8, 1, seed=0, version=0)
    away, _ = gradient(objective, policy, batch, list(range(8)), 1000)
    with torch.no_grad():
        policy.drift.table[:, 1] = beta * slopes(policy)[1:]
    for row in range(3):
        at, _ = gradient(objective, policy, batch, [row], 1000)
        assert at.abs().max() < 2e-5 * away.abs().max()


def test_the_gradient_vanishes_in_the_mean_at_the_optimum_of_a_quadratic_reward() -> None:
    """The control that the exact law of the tilt asks for, u_1 = -3.98544 x + 5.98506, is also that of fixed noise."""
    policy, beta, reward = AnalyticPolicy(10, dimensions=4000), 4.0, AnalyticReward(curvature=1.0, centre=1.5)
    objective = attached(ELEGANTConfig(beta=beta, checkpointing=False), policy, reward)
    batch = draw(policy, reward, 16, 1, seed=0, version=0)
    away, _ = gradient(objective, policy, batch, list(range(16)), 1000)
    exact = quadratic_control(policy, beta, 1.5)
    assert exact[-1].tolist() == pytest.approx([-3.98544, 5.98506], abs=1e-4)
    with torch.no_grad():
        policy.drift.table.copy_(exact)
    at, _ = gradient(objective, policy, batch, list(range(16)), 1000)
    assert (at.abs() < 0.02 * away.abs().max()).all()


@pytest.mark.slow
def test_training_finds_the_tilt_up_to_what_the_chain_remembers() -> None:
    found = outcome(LINEAR_10, train(LINEAR_10, elegant, 120, samples=16, lr=5e-2))
    assert (found.mean, found.variance) == pytest.approx((0.79879, 0.20289), abs=0.002)


# ---------------------------------------------------------------------- the start


@pytest.mark.parametrize(
    ("steps", "shift", "without", "ideal"),
    [(10, 0.0646077101, 0.7987893020, 0.8015720728), (50, 0.0412702643, 0.9551406273, 0.9562761171)],
)
def test_what_a_learned_start_would_add_is_the_chains_memory(
    steps: int, shift: float, without: float, ideal: float
) -> None:
    """For the reward 1.5 x its law is N(1.5 C_T, 1), which makes the mean the tilt's; the gap is 1.5 C_T^2."""
    policy, beta = AnalyticPolicy(steps), 1.5
    carried = [1.0]
    for factor, _, _ in reversed(chain(policy)):
        carried.append(carried[-1] * factor)
    carried.reverse()

    def mean(x: float) -> float:
        for number, (factor, offset, variance) in enumerate(chain(policy)):
            x = factor * x + offset + variance * beta * carried[number + 1]
        return x

    assert beta * carried[0] == pytest.approx(shift, abs=2e-6)
    assert mean(0.0) == pytest.approx(without, abs=2e-6)
    assert mean(shift) == pytest.approx(ideal, abs=2e-6)
    assert ideal - without == pytest.approx(beta * carried[0] ** 2, abs=1e-6)


def test_chains_that_remember_their_start_are_refused() -> None:
    asks = ELEGANTConfig.asks
    asks.check("elegant", flow_chain(8, "ddpm", last=1e-3))
    for solver, eta in (("ddim", 0.5), ("flow_sde", 0.7)):
        with pytest.raises(ValueError, match="elegant learns no start of the chain, so the image may not remember"):
            asks.check("elegant", flow_chain(8, solver, eta, last=1e-3))
    with pytest.raises(ValueError, match="needs noise in the last step too"):
        asks.check("elegant", flow_chain(8, "ddpm"))
