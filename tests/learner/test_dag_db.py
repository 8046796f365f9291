"""Scalar detailed balance: it vanishes where flows are right, and its gradients go where they should."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from actors.policy import Policy
from benchmarks.analytic_world import AnalyticPolicy, AnalyticReward, chain, draw, make_flow
from learner.batch import Batch
from learner.flow_function import FlowConfig
from learner.objectives.dag_db import DAGDB, DAGDBConfig
from learner.objectives.objective import Part
from learner.objectives.residual_db import ResidualDB, ResidualDBConfig

SMALL = FlowConfig(widths=(8,), heads=2, groups=4)
EVERYTHING = Part(torch.arange(6), torch.arange(5).expand(6, 5))


class Brightness:
    """The mean of an image."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        assert len(images) == len(prompts)
        assert not images.requires_grad
        return images.flatten(1).mean(dim=1)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        raise AssertionError("scalar flows need no gradient of the reward")


def test_residual_db_vanishes_at_the_exact_optimum_of_a_linear_reward() -> None:
    policy, beta, reward = AnalyticPolicy(10), 1.5, AnalyticReward(slope=1.0)
    steps, flow = len(policy.transitions), make_flow(policy, FlowConfig())
    slope, constant = beta, 0.0  # log flow of a state: slope x + constant, from the image to the noise
    tables = []
    for step, (factor, offset, variance) in reversed(list(enumerate(chain(policy)))):
        with torch.no_grad():
            policy.drift.table[step, 1] = slope
        constant += slope * offset + 0.5 * slope**2 * variance
        slope *= factor
        tables.append((step, slope, constant))
    for step, full, constant in tables:
        # The network holds what the predicted image's reward leaves: with eps_theta = m x + n, x0 = (x - s eps) / a.
        ones = torch.tensor([[[[0.0]]], [[[1.0]]]])
        with torch.no_grad():
            at = policy.clean(ones, torch.full((2,), step), policy.encode(["", ""])).flatten()
            flow.network.table[step, 0] = full - beta * float(at[1] - at[0])
            flow.network.table[step, 1] = constant - beta * float(at[0])

    class Scalar(torch.nn.Module):
        def forward(self, x: Tensor, step: Tensor, embedding: Tensor) -> Tensor:
            return flow.network(x, step).flatten(1).sum(dim=1)

    flow_of_states = make_flow(policy, FlowConfig())
    flow_of_states.network = Scalar()
    objective = ResidualDB(ResidualDBConfig(beta=beta), flow_of_states)
    objective.attach(policy, reward)
    batch = draw(policy, reward, 256, 1, seed=0, version=0)
    part = Part(torch.arange(256), torch.arange(steps).expand(256, steps))
    assert objective.backward(policy, batch, part, 10_000)["loss/imbalance"] < 1e-6
    with torch.no_grad():
        policy.drift.table[3, 1] += 0.3
    assert objective.backward(policy, batch, part, 10_000)["loss/imbalance"] > 1e-3


@pytest.fixture
def batch(policy: Policy, nudge: Callable[[Policy], None], draw: Callable[..., Batch]) -> Batch:
    nudge(policy)
    return draw(policy, steps=(0, 1, 2, 3, 4))


def attached(policy: Policy, residual: bool, **options: object) -> DAGDB:
    config = (ResidualDBConfig if residual else DAGDBConfig)(flow=SMALL, **options)  # type: ignore[arg-type]
    objective = config.build()
    objective.attach(policy, Brightness())
    return objective


@pytest.mark.parametrize("residual", [True, False])
def test_both_networks_are_trained_and_the_micro_batch_does_not_matter(
    residual: bool, policy: Policy, batch: Batch
) -> None:
    objective = attached(policy, residual)
    found = []
    for micro_batch in (99, 7):
        for parameter in policy.parameters:
            parameter.grad = None
        objective.flow.optimizer.zero_grad()
        metrics = objective.backward(policy, batch, EVERYTHING, micro_batch)
        weight = objective.flow.network.unet.conv_out.weight
        found.append((torch.cat([p.grad.flatten() for p in policy.parameters]), weight.grad.clone(), metrics["loss"]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-4, atol=1e-6)
    assert found[0][0].abs().max() > 0
    assert found[0][1].abs().max() > 0


def test_residual_db_is_zero_at_the_pretrained_model_without_a_reward(
    policy_config: object, draw: Callable[..., Batch]
) -> None:
    fresh = Policy.load(policy_config)  # type: ignore[arg-type]
    objective = attached(fresh, residual=True, beta=0.0)
    assert objective.backward(fresh, draw(fresh, steps=(0, 1, 2, 3, 4)), EVERYTHING, 99)["loss"] < 1e-10


def test_the_image_has_its_own_reward_and_no_flow(policy: Policy, batch: Batch) -> None:
    only_last = replace(
        batch, steps=batch.steps[4:], latents=batch.latents[:, 4:], next_latents=batch.next_latents[:, 4:]
    )
    last = Part(EVERYTHING.samples, torch.zeros(6, 1, dtype=torch.int64))
    objective, losses = attached(policy, residual=True, beta=3.0), []
    for shift in (0.0, 1.0):
        moved = replace(only_last, rewards=batch.rewards + shift)
        losses.append(objective.backward(policy, moved, last, 99)["loss"])
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)


def test_samples_without_a_reward_are_left_out(policy: Policy, batch: Batch) -> None:
    rewards = batch.rewards.clone()
    rewards[1] = math.nan
    parts = list(attached(policy, residual=True).parts(replace(batch, rewards=rewards), torch.Generator()))
    assert sorted(parts[0].samples.tolist()) == [0, 2, 3, 4, 5]


def test_the_noising_density_is_that_of_the_forward_process(policy: Policy) -> None:
    x, x_next = torch.randn(2, 5, *policy.latent_shape)
    step = torch.arange(5)
    alpha_bar = policy.transitions.alpha_bar.double()
    expected = []
    for i in range(5):
        decay = alpha_bar[i] / alpha_bar[i + 1]
        normal = torch.distributions.Normal(decay.sqrt() * x_next[i].double(), (1 - decay).sqrt())
        expected.append(normal.log_prob(x[i].double()).mean())
    found = attached(policy, residual=False).other_log_prob(policy, x, x_next, step, policy.encode(["a"] * 5))
    torch.testing.assert_close(found.double(), torch.stack(expected), rtol=1e-4, atol=1e-4)
