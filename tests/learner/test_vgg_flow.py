"""VGG-Flow: the control of a linear reward in closed form, on networks of velocities and of noise; what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actors.noise_levels import NoiseLevels, Prediction
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from actors.transitions import make_transitions
from benchmarks.analytic_world import AnalyticReward, PerStep
from learner.batch import Batch, collate
from learner.flow_function import Flow, FlowConfig
from learner.learner import Learner, LearnerConfig
from learner.objectives.objective import Part, Plan
from learner.objectives.vgg_flow import VGGFlow, VGGFlowConfig, replay
from tests.support.analytic_flow import AnalyticFlow, flow_chain, moments
from tests.support.curved import Curved


def world(steps: int, prediction: Prediction = "velocity", dimensions: int = 1) -> AnalyticFlow:
    """A policy that follows the probability-flow ODE; of noise, the same states scaled to preserve variance."""
    if prediction == "velocity":
        return AnalyticFlow(flow_chain(steps, "ddim", 0.0), dimensions)
    time = torch.linspace(0.999, 0, steps + 1, dtype=torch.float64)
    size = (time**2 + (1 - time) ** 2).sqrt()
    levels = NoiseLevels(1000 * time[:-1].float(), (1 - time) / size, time / size, prediction)
    return AnalyticFlow(make_transitions(levels, "ddim", 0.0), dimensions)


def batch_of(policy: Policy, samples: int) -> Batch:
    request = Request(0, 0, ("",) * samples, (0,) * samples, tuple(range(samples)))
    return collate([rollout(policy, request)[1]], np.zeros(samples, np.float32))


def carried(policy: AnalyticFlow) -> Tensor:
    """d y_image / d y of every state of the pretrained chain, in flow matching's coordinates, `(T + 1,)`."""
    found, chain = [1.0], policy.transitions
    size = chain.signal + chain.sigma
    for step, factor in reversed(list(enumerate(moments(chain)[0]))):
        found.append(found[-1] * float(factor * size[step] / size[step + 1]))
    return torch.tensor(found[::-1])


def solved(policy: AnalyticFlow, beta: float, gamma: str) -> VGGFlow:
    """The objective, and the policy, where a linear reward's control and its value gradient are exact."""
    chain, steps = policy.transitions, len(policy.transitions)
    value = Flow(PerStep(steps + 1), FlowConfig(), torch.arange(steps + 1))
    time = (chain.sigma / (chain.signal + chain.sigma)).float()
    fade = (1 - time) ** 2 if gamma == "squared" else torch.ones_like(time)
    with torch.no_grad():
        policy.drift.table[:, 1] = -beta * carried(policy)[:-1]
        value.network.table[:-1, 1] = beta * (carried(policy) - fade)[:-1]
    objective = VGGFlow(VGGFlowConfig(beta=beta, gamma=gamma, step_fraction=1.0), value)
    objective.attach(policy, AnalyticReward(slope=1.0))
    return objective


@pytest.mark.parametrize("gamma", ["squared", "one"])
@pytest.mark.parametrize("prediction", ["velocity", "epsilon"])
def test_losses_vanish_at_the_control_of_a_linear_reward(prediction: Prediction, gamma: str) -> None:
    policy = world(12, prediction, dimensions=3)
    objective = solved(policy, 1.5, gamma)
    part = Part(torch.arange(4), torch.arange(12).expand(4, 12))
    metrics = objective.backward(policy, batch_of(policy, 4), part, 100)
    assert metrics["size/reward_gradient"] > 0.1
    assert metrics["loss/match"] < 1e-8
    assert metrics["loss/consistency"] < 1e-8
    with torch.no_grad():
        policy.drift.table[5, 1] += 0.1
        assert objective.value is not None
        objective.value.network.table[7, 1] += 0.1
    metrics = objective.backward(policy, batch_of(policy, 4), part, 100)
    # Steps 5 and 7 are off by .1, and what is carried from 7 back to 6.
    time = (policy.transitions.sigma / (policy.transitions.signal + policy.transitions.sigma)).float()
    rates = (torch.tensor([1.0, float(carried(policy)[6] / carried(policy)[7])]) * 0.1 / -time.diff()[[7, 6]]).square()
    assert metrics["loss/match"] == pytest.approx(2 * 0.01 / 12, rel=1e-3)
    assert metrics["loss/consistency"] == pytest.approx(float(rates.sum()) / 12, rel=1e-3)


@pytest.mark.parametrize(("strength", "slope", "shift"), [(1.0, 1.0, 0.94248), (0.5, 1.5, 0.70686)])
def test_the_mean_moves_as_the_value_function_says(strength: float, slope: float, shift: float) -> None:
    """pi s c beta / 2 in many steps, at the pretrained model's spread."""
    policy = world(400, dimensions=2000)
    batch = batch_of(policy, 1)
    before, _ = replay(policy, batch, torch.arange(1))
    solved(policy, strength * slope, "squared")
    after, images = replay(policy, batch, torch.arange(1))
    assert math.pi * 0.6 * strength * slope / 2 == pytest.approx(shift, abs=1e-5)
    assert float((after[:, -1] - before[:, -1]).mean()) == pytest.approx(shift, abs=5e-3)
    assert float((after[:, -1] - before[:, -1]).std()) < 1e-4
    assert torch.equal(images[:, -1], after[:, -1])


def test_a_network_of_noise_moves_as_the_formula_says() -> None:
    """signal .8, sigma .6 (t = 3/7), predicted noise .3 and g = .05: noise .2714285714, image's shift .0214285714."""
    signal, sigma = torch.tensor([[0.8, 1.0], [0.6, 0.0]], dtype=torch.float64)
    levels = NoiseLevels(torch.tensor([500.0]), signal, sigma, "epsilon")
    policy = world(1)
    policy.transitions = make_transitions(levels, "ddim", 0.0)
    said = nn.Parameter(torch.tensor(0.3))
    policy.predict = lambda x, step, conditioning, guided=True: x * 0 + (0.3 if policy._acting is None else said)  # type: ignore
    objective = VGGFlow(VGGFlowConfig(beta=0.05, gamma="one", value=None))
    objective.attach(policy, AnalyticReward(slope=1.0))

    def loss(noise: float) -> float:
        said.data.fill_(noise)
        return objective.backward(
            policy, batch_of(policy, 1), Part(torch.zeros(1).long(), torch.zeros(1, 1).long()), 1
        )["loss"]

    assert loss(0.3) == pytest.approx(0.05**2, rel=1e-4)
    assert loss(0.2714285714) < 1e-12


@pytest.mark.slow
def test_training_finds_the_control_and_the_value_gradient() -> None:
    policy, beta = world(8, dimensions=16), 0.5
    value = Flow(PerStep(9), FlowConfig(lr=2e-2, weight_decay=0.0, max_grad_norm=1e6), torch.arange(9))
    objective = VGGFlow(VGGFlowConfig(beta=beta, step_fraction=1.0), value)
    config = LearnerConfig(lr=2e-2, weight_decay=0.0, max_grad_norm=1e6, micro_batch=1000, lr_schedule="cosine")
    learner = Learner(config, policy, objective, 0, AnalyticReward(slope=1.0), iterations=240)
    for iteration in range(240):
        request = Request(0, iteration, ("",) * 8, (0,) * 8, tuple(range(8)))
        for group in value.optimizer.param_groups:
            group["lr"] = learner.optimizer.param_groups[0]["lr"]
        batch = replace(collate([rollout(policy, request)[1]], np.zeros(8, np.float32)), version=learner.version)
        metrics = learner.step(batch).metrics
    assert metrics["loss"] < 1e-3
    x = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1)
    for step in range(8):
        found = policy.drift(x, torch.full((3,), step)).flatten()
        torch.testing.assert_close(found, -beta * carried(policy)[step].expand(3), atol=0.03, rtol=0)


@pytest.fixture
def still(policy: Policy, nudge: Callable[..., None]) -> Policy:
    """A trained policy whose chain adds no noise."""
    policy.transitions = make_transitions(policy._family.levels, "ddim", 0.0)
    nudge(policy)
    return policy


def test_the_learner_goes_the_samplers_chain_again(still: Policy) -> None:
    prompts = ("a red circle", "two blue squares", "a red circle")
    images, trajectories = rollout(still, Request(3, 5, prompts, (0, 1, 0), (0, 0, 1)))
    batch = collate([trajectories], np.zeros(3, np.float32))
    states, predicted = replay(still, batch, torch.arange(3))
    again = (still.decode(states[:, -1]) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    assert np.array_equal(again.numpy(), images)
    x, step = states[:, 2], torch.full((3,), 2)
    with torch.no_grad():
        expected = still.clean(x, step, still.encode(prompts))
    torch.testing.assert_close(predicted[:, 2], expected)


@pytest.mark.parametrize("value", [None, FlowConfig(widths=(8,), heads=2, groups=4)])
def test_what_an_update_costs_and_whom_it_leaves_out(still: Policy, value: FlowConfig | None) -> None:
    """T to go the chain again, and policy and pretrained model at each of the drawn steps; two rows a prediction."""
    batch = batch_of(still, 4)
    batch = replace(batch, rewards=torch.tensor([0.0, float("nan"), 0.0, 0.0]))  # one was dropped
    objective = VGGFlowConfig(value=value, step_fraction=0.4, updates=1).build()
    objective.attach(still, Curved())
    assert objective.plan(still.transitions) == Plan(())
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    assert sorted(part.samples.tolist()) == [0, 2, 3]
    assert part.columns.shape == (3, 2)
    before = still.evaluations
    objective.backward(still, batch, part, 9)
    assert still.evaluations - before == 2 * 3 * (5 + 2 * 2)
    assert (set(objective.modules) == {"value"}) == (value is not None)

    objective.attach(still, Curved(0))  # of the first transition of every micro-batch, also at its other end
    assert objective.backward(still, batch, part, 9)["unjudged"] == pytest.approx(float(weight_of_first()))


def weight_of_first() -> float:
    """Of the first of two transitions, which stands for two of five steps, of one of three samples."""
    return 2 / 5 / 3


def test_a_bound_shortens_gradients_and_leaves_short_ones() -> None:
    policy = world(4, dimensions=4)
    image, state = torch.zeros(2, 1, 1, 4), torch.tensor([4, 4])
    for most, expected in ((None, 1.0), (10.0, 1.0), (1.0, 0.5)):
        objective = VGGFlow(VGGFlowConfig(beta=1.0, max_gradient=most, value=None))
        objective.attach(policy, AnalyticReward(slope=1.0))
        found, _ = objective._guess(policy, image, state, ["", ""])
        torch.testing.assert_close(found, torch.full_like(image, expected))


def test_chains_with_noise_or_a_start_of_their_own_are_refused() -> None:
    asks = VGGFlowConfig.asks
    still = world(8).transitions
    asks.check("vgg_flow", still)
    sigma = still.sigma
    levels = NoiseLevels(still.timesteps, 1 - sigma, sigma, "velocity")
    for chain in (
        make_transitions(levels, "ddim", 1.0),
        make_transitions(levels, "flow_sde", noisy=(0, 2)),
        make_transitions(levels, "dpm_2m"),
        replace(still, first_step=2),
    ):
        with pytest.raises(ValueError, match=r"controls the probability-flow ODE.* set policy.solver=ddim and policy"):
            asks.check("vgg_flow", chain)
