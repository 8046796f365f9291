"""The log-likelihood of an image by the probability-flow ODE, and preferences that are trained by it."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from actors.conditioning import Conditioning
from actors.config import PolicyConfig
from actors.noise_levels import NoiseLevels
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from actors.transitions import make_transitions, over
from benchmarks.analytic_world import AnalyticPolicy
from learner.batch import Batch, collate
from learner.objectives.objective import Part
from learner.objectives.ppod import PPOD, PPODConfig
from learner.ode_likelihood import every_dimension, images_at_a_time, ode_log_prob, ode_log_probs, random_signs
from learner.ranks import Ranks

MEAN, VARIANCE = 0.5, 0.36  # of `benchmarks.analytic_world.GAUSSIAN`
PLACES = torch.linspace(-2, 2, 9, dtype=torch.float64)
EVERYONE = torch.arange(6)


def exact_flow(steps: int) -> Any:
    """A flow model that knows N(MEAN, VARIANCE) in each dimension, from pure noise."""
    sigma = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    chain = make_transitions(NoiseLevels(1000 * sigma[:-1].float(), 1 - sigma, sigma, "velocity"), "ddim", 0.0)

    def predict(x: Tensor, step: Tensor, conditioning: Conditioning) -> Tensor:
        noise = over(sigma[step], x)
        pull = (x - (1 - noise) * MEAN) / ((1 - noise) ** 2 * VARIANCE + noise**2)
        return noise * pull - (MEAN + (1 - noise) * VARIANCE * pull)

    return SimpleNamespace(transitions=chain, predict=predict)


@torch.no_grad()
def off_by(policy: Any, law: torch.distributions.Normal, dimensions: int) -> float:
    """The largest error of log-densities, nats per dimension."""
    image = PLACES.view(-1, 1, 1, 1).expand(-1, 1, 1, dimensions)
    found = ode_log_prob(policy, image, Conditioning(), every_dimension(len(PLACES), (1, 1, dimensions)))
    return float((found - law.log_prob(PLACES)).abs().max())


@pytest.mark.parametrize("dimensions", [1, 3])
def test_flow_model_of_a_gaussian(dimensions: int) -> None:
    """Of second order in the steps, towards the law that the model knows."""
    law = torch.distributions.Normal(MEAN, math.sqrt(VARIANCE))
    coarse, fine = (off_by(exact_flow(steps), law, dimensions) for steps in (20, 80))
    assert fine < 2e-3
    assert coarse / fine > 8


def test_noise_model_of_a_gaussian() -> None:
    """Its chain begins at N(0, 1), which is not quite the noised data's law, so it draws from another Gaussian."""
    policy = AnalyticPolicy(160)
    signal, sigma = policy.transitions.signal, policy.transitions.sigma
    std, mean = (signal**2 * VARIANCE + sigma**2).sqrt(), signal * MEAN
    law = torch.distributions.Normal(mean[-1] - std[-1] * mean[0] / std[0], std[-1] / std[0])
    assert off_by(policy, law, 1) < 6e-3


@pytest.mark.slow
def test_signs_estimate_the_divergence(policy_config: PolicyConfig) -> None:
    """Without bias: the mean over many random signs is what one probe a dimension finds."""
    policy = Policy.load(policy_config.model_copy(update={"steps": 2, "guidance": 1.0}))
    request = Request(0, 0, ("a red circle",), (0,), (0,), clean=True)
    trajectories = rollout(policy, request)[1]
    assert trajectories.clean is not None
    image, conditioning = torch.from_numpy(trajectories.clean), policy.encode(request.prompts)
    with torch.no_grad():
        exact = ode_log_prob(policy, image, conditioning, every_dimension(1, policy.latent_shape))
        signs = random_signs(trajectories.keys, policy.latent_shape, 48)
        each = torch.stack([ode_log_prob(policy, image, conditioning, probe[None]) for probe in signs])
        together = ode_log_prob(policy, image, conditioning, signs)
    error = float(each.std() / math.sqrt(len(each)))
    assert error > 0
    assert float((each.mean() - exact).abs()) < 4 * error
    torch.testing.assert_close(together, each.mean(dim=0), atol=1e-4, rtol=0)


def test_signs_belong_to_samples() -> None:
    keys = np.array([[0, 0, 1, 2, 2], [0, 0, 1, 3, 3]], np.uint64)
    both, second = random_signs(keys, (4, 8, 8), 2), random_signs(keys[1:], (4, 8, 8), 2)
    assert set(both.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(both[:, 1:], second)
    assert not torch.equal(both[0, 0], both[1, 0])
    assert not torch.equal(both[0, 0], both[0, 1])


def test_gradient_by_finite_differences() -> None:
    policy = AnalyticPolicy(6, dimensions=2, knots=5)
    policy.drift.double()
    torch.manual_seed(0)
    with torch.no_grad():
        policy.drift.table.normal_(0, 0.3)
    image = torch.randn(3, 1, 1, 2, dtype=torch.float64)
    weight = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)

    def value() -> Tensor:
        return (weight * ode_log_prob(policy, image, Conditioning(), every_dimension(3, (1, 1, 2)))).sum()

    (gradient,) = torch.autograd.grad(value(), policy.drift.table)
    for step, knot in ((0, 2), (3, 2), (5, 3)):
        found = []
        for move in (1e-5, -1e-5):
            with torch.no_grad():
                policy.drift.table[step, knot] += move
                found.append(float(value()))
                policy.drift.table[step, knot] -= move
        assert float(gradient[step, knot]) == pytest.approx((found[0] - found[1]) / 2e-5, rel=1e-4, abs=1e-7)
    assert float(gradient.norm()) > 0.01


def images(policy: Policy) -> Batch:
    """Two prompts, three images each, with what a log-likelihood needs."""
    request = Request(
        seed=0, iteration=0, prompts=("a red circle",) * 3 + ("two blue squares",) * 3,
        prompt_index=(0, 0, 0, 1, 1, 1), sample_index=(0, 1, 2) * 2, clean=True,
    )  # fmt: skip
    return collate([rollout(policy, request)[1]], np.array([0.3, -1.0, 2.0, 0.1, 0.7, -0.4], np.float32))


def gradient(policy: Policy, batch: Batch, micro_batch: int, **settings: Any) -> tuple[Tensor, dict[str, float]]:
    for parameter in policy.parameters:
        parameter.grad = None
    objective = PPOD(PPODConfig(likelihood="ode", kl_weight=0, **settings))
    objective.begin(policy, batch, 0)
    metrics = objective.backward(policy, batch, Part(EVERYONE, torch.zeros(1, dtype=torch.int64)), micro_batch)
    return torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None]), metrics


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["round", "pretrained"])
def test_micro_batches_change_nothing(policy: Policy, nudge: Callable[..., None], reference: str) -> None:
    nudge(policy)
    batch = images(policy)
    assert images_at_a_time(policy, 1) == 1
    assert images_at_a_time(policy, 6 * 2 * len(policy.transitions)) == 6
    one, metrics = gradient(policy, batch, 1, reference=reference)
    whole, _ = gradient(policy, batch, 1000, reference=reference)
    assert whole.norm() > 0
    torch.testing.assert_close(one, whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))
    assert metrics["ratio/max_log"] < 1e-5


def test_preferences_reach_the_image(policy: Policy) -> None:
    """A step against the gradient makes the images that won more likely against those that lost."""
    batch = images(policy)
    before = ode_log_probs(policy, batch)
    found, _ = gradient(policy, batch, 1000, beta=1000.0, clip_range=0.5)
    position = 0
    with torch.no_grad():
        for parameter in policy.parameters:
            size = parameter.numel()
            parameter -= (0.01 / found.norm() * found[position : position + size]).view_as(parameter)
            position += size
    moved = ode_log_probs(policy, batch) - before
    assert moved[2] - moved[1] + moved[4] - moved[5] > 0


@pytest.mark.parametrize("count", [2, 3])
def test_the_old_policys_are_shared_by_the_ranks(policy: Policy, count: int) -> None:
    class Silent(Ranks):
        def sum_(self, values: Tensor) -> Tensor:
            return values

    batch = images(policy)
    before, alone = policy.evaluations, ode_log_probs(policy, batch, 1)
    passes = policy.evaluations - before
    shares = [ode_log_probs(policy, batch, 1, Silent(rank, count)) for rank in range(count)]
    assert policy.evaluations - before == 2 * passes
    assert torch.equal(sum(shares), alone)
    assert all(0 < int((share != 0).sum()) < 6 for share in shares)


def test_the_ratio_is_to_the_policy_that_each_batch_finds(policy: Policy, nudge: Callable[..., None]) -> None:
    objective, part = PPOD(PPODConfig(likelihood="ode", kl_weight=0)), Part(EVERYONE, torch.zeros(1).long())

    def largest() -> float:
        return objective.backward(policy, batch, part, 1000)["ratio/max_log"]

    for _ in range(2):
        nudge(policy)
        batch = objective.begin(policy, images(policy), 0)
        assert largest() < 1e-5
        nudge(policy)
        assert largest() > 1e-3


def test_images_predicted_say_nothing_of_noise_where_there_is_none() -> None:
    signal, sigma = torch.tensor([0.6, 0.8, 1]).double(), torch.tensor([0.8, 0.6, 0]).double()
    levels, asks = NoiseLevels(torch.arange(2), signal, sigma, "sample"), PPODConfig(likelihood="ode", kl_weight=0).asks
    with pytest.raises(ValueError, match=r"no velocity at the image; set policy\.final_sigma"):
        asks.check("ppod", make_transitions(levels))
    asks.check("ppod", chain := make_transitions(levels, final_sigma=0.02))
    x, image = torch.full((1, 2), 0.5), torch.full((1, 2), 0.3)
    velocity = chain.velocity(x, image, torch.tensor([2]))
    torch.testing.assert_close(chain.signal[2].float() * image + chain.sigma[2].float() * (velocity + image), x)


def test_what_it_needs() -> None:
    policy = exact_flow(4)
    assert not policy.transitions.stochastic_steps  # and still there is something to train on
    config = PPODConfig(likelihood="ode", kl_weight=0)
    config.asks.check("ppod", policy.transitions)
    plan = PPOD(config).plan(policy.transitions)
    assert (plan.stored_steps, plan.clean) == ((), True)
    with pytest.raises(ValueError, match="No step of the chain adds noise"):
        PPODConfig().asks.check("ppod", policy.transitions)
    for wrong in ({}, {"kl_weight": 0, "steps_per_update": 2}):
        with pytest.raises(ValidationError, match="needs kl_weight=0 and steps_per_update=null"):
            PPODConfig(likelihood="ode", **wrong)
    with pytest.raises(ValidationError, match="needs offline_batches=0"):
        PPODConfig(likelihood="ode", kl_weight=0, offline_batches=2)
