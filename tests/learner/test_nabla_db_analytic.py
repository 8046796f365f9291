"""nabla-DB where everything is known in closed form: score identities, a sum over dimensions, and the exact optimum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.analytic_world import AnalyticPolicy, AnalyticReward, chain, make_flow
from benchmarks.analytic_world import draw as draw_analytic
from learner.flow_function import FlowConfig
from learner.objectives.nabla_db import Seen, predict_piece
from learner.objectives.objective import Part
from learner.objectives.residual_nabla_db import ResidualNablaDB, ResidualNablaDBConfig
from learner.visits import visit


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
    settings = {"prior_strength": eta, "no_flow": False}

    def scores(**more: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        objective = ResidualNablaDBConfig(**settings, **more).build()
        return objective.scores(
            world, objective.piece(world, repeated, torch.arange(draws), torch.full((draws,), step))
        )

    forward, reverse = scores(expected_scores=False)
    expected = scores()
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


OPTIONS: list[dict[str, Any]] = [
    {},
    {"weighting": "none"},
    {"weighting": "variance", "gamma": "one"},
    {"guess_jacobian": "identity"},
    {"guess_jacobian": "identity", "gamma": "sqrt_alpha_bar", "subsample": "steps"},
    {"guess_by": "pretrained", "gamma": "one"},
    {"guess_by": "pretrained", "guess_jacobian": "identity"},
    {"smoothing": 3, "smoothing_std": 0.2},
]


def jacobian(policy: AnalyticPolicy, step: int, options: dict[str, Any]) -> float:
    """gamma_t d x0 / d x_t of the exact model, or of the identity."""
    alpha_bar = float(policy.transitions.alpha_bar[step])
    gamma = {"alpha_bar": alpha_bar, "sqrt_alpha_bar": alpha_bar**0.5, "one": 1.0}[options.get("gamma", "alpha_bar")]
    exact = alpha_bar**0.5 * 0.36 / (alpha_bar * 0.36 + 1 - alpha_bar)
    return gamma * (1.0 if options.get("guess_jacobian") == "identity" else exact)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_losses_vanish_at_the_exact_optimum_of_a_linear_reward(options: dict[str, Any]) -> None:
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
            flow.network.table[step, 1] = beta * (slopes[step] - jacobian(policy, step, options))
    objective = ResidualNablaDB(ResidualNablaDBConfig(step_fraction=1.0, beta=beta, **options), flow)
    reward = AnalyticReward(slope=1.0)
    objective.attach(policy, reward)
    batch = draw_analytic(policy, reward, 64, 1, seed=0, version=0)
    part = Part(torch.arange(64), torch.arange(steps).expand(64, steps))
    metrics = objective.backward(policy, batch, part, 1000)
    assert metrics["size/reward_gradient"] > 0.1
    for name in ("forward", "reverse", "terminal"):
        assert metrics[f"loss/{name}"] < 1e-8
    # The method's own figures, section 6.1 of the derivation: C_10 = .043072, G_5 = .48240.
    assert slopes[0] == pytest.approx(0.043072, abs=1e-5)
    assert beta * slopes[5] == pytest.approx(0.48240, abs=1e-4)
    with torch.no_grad():
        policy.drift.table[3, 1] += 0.3
    assert objective.backward(policy, batch, part, 1000)["loss/forward"] > 1e-5


@pytest.mark.parametrize("options", OPTIONS[:-1], ids=str)  # noise moves the gradients of single copies
def test_at_the_optimum_of_a_quadratic_reward_only_the_sampled_noise_is_left(options: dict[str, Any]) -> None:
    """The forward loss has the floor (q std)^2 of a policy of fixed variance, weighted; the reverse has none."""
    policy, beta, centre = AnalyticPolicy(10, dimensions=64), 4.0, 1.5
    steps, flow, floors = len(policy.transitions), make_flow(policy, FlowConfig()), []
    slope, offset, spread = 1.0, 0.0, 0.0  # of x_0 given the state
    q, level = beta, beta * centre  # G(x) = level - q x at the state that a transition leads to
    for step, (factor, shift, variance) in reversed(list(enumerate(chain(policy)))):
        share = 1 / (1 + q * variance)
        with torch.no_grad():
            policy.drift.table[step, 0] = -q * factor * share
            policy.drift.table[step, 1] = (level - q * shift) * share
        std, kappa = variance**0.5, float(policy.transitions.score_weight(torch.tensor([step]), torch.zeros(1, 1)))
        scale = {"none": 1.0, "variance": std, "output": 1 / kappa}[options.get("weighting", "output")]
        floors.append((scale * q * std) ** 2)
        spread, offset, slope = spread + slope**2 * variance, offset + slope * shift, slope * factor
        denominator = 1 + beta * spread
        q, level = beta * slope**2 / denominator, beta * slope * (centre - offset) / denominator
        # The predicted image is that of the policy, whose noise is the exact model's and the drift, or of that model.
        ends = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
        with torch.no_grad():
            predict = policy.pretrained if options.get("guess_by") == "pretrained" else policy.predict
            told = predict(ends, torch.tensor([step, step]), policy.encode(["", ""]))
            at, above = policy.transitions.clean(ends, told, torch.tensor([step, step])).flatten().tolist()
            moves = 1.0 if options.get("guess_jacobian") == "identity" else above - at
            faded = beta * moves * jacobian(policy, step, options | {"guess_jacobian": "identity"})
            flow.network.table[step, 0] = -q + faded * (above - at)
            flow.network.table[step, 1] = level - faded * (centre - at)
    objective = ResidualNablaDB(ResidualNablaDBConfig(step_fraction=1.0, beta=beta, **options), flow)
    reward = AnalyticReward(curvature=1.0, centre=centre)
    objective.attach(policy, reward)
    batch = draw_analytic(policy, reward, 512, 1, seed=0, version=0)
    part = Part(torch.arange(512), torch.arange(steps).expand(512, steps))
    metrics = objective.backward(policy, batch, part, 10_000)
    assert metrics["loss/forward"] == pytest.approx(sum(floors) / steps, rel=0.02)
    assert metrics["loss/reverse"] < 1e-4 * metrics["loss/forward"]
    assert metrics["loss/largest_step"] == pytest.approx(max(floors) / sum(floors), rel=0.02)


def test_the_pretrained_guess_alone_is_exact_for_a_linear_reward_whatever_the_policy() -> None:
    """E[x_0 | x_t] of the pretrained chain is its predicted image, up to the size of a step; no flow function is there.

    The law of images is Gaussian, so that d E[x_0 | x_t] / d x_t is one number a step, and a policy that pulls towards
    0 has another: the policy's own guess is too small by what it pulls.
    """
    policy, beta = AnalyticPolicy(100, dimensions=4), 1.5
    steps = len(policy.transitions)
    slopes = [1.0]
    for factor, _, _ in reversed(chain(policy)):
        slopes.append(slopes[-1] * factor)
    exact = beta * torch.tensor(slopes[-2::-1])  # by step, at the state that it leads to
    reward = AnalyticReward(slope=1.0)
    with torch.no_grad():
        policy.drift.table[:, 0] = -0.5
    batch = draw_analytic(policy, reward, 4, 1, seed=0, version=0)
    found = {}
    for guess_by in ("pretrained", "policy"):
        config = ResidualNablaDBConfig(beta=beta, gamma="one", no_flow=True, guess_by=guess_by)
        objective = config.build()
        objective.attach(policy, reward)
        rows, cols = torch.zeros(steps, dtype=torch.int64), torch.arange(steps)
        visits = visit(batch, rows, cols)
        guess, judged = objective.guesses(policy, batch, visits, objective.piece(policy, batch, rows, cols))
        assert judged.all()
        found[guess_by] = guess[visits.ends].flatten(1)[:, 0]
    torch.testing.assert_close(found["pretrained"], exact, rtol=0, atol=0.05)
    assert (found["policy"] - exact).abs().max() > 0.2


def test_smoothing_averages_the_gradient_over_noise_that_a_sample_and_a_state_have_of_their_own() -> None:
    policy, reward, size, copies = AnalyticPolicy(10, dimensions=500), AnalyticReward(curvature=1.0), 0.3, 4
    batch = draw_analytic(policy, reward, 3, 1, seed=0, version=0)
    x, state = batch.latents[:, 4], torch.tensor([4, 4, 5])
    x[1] = x[0]
    prediction = policy.predict(x, state, policy.encode([""] * 3))
    seen = Seen(x, state, prediction.detach(), [""] * 3, batch.keys_of(torch.arange(3)))

    def guess(which: list[int], smoothing: int = 1, smoothing_std: float = 0.0) -> torch.Tensor:
        settings = {"smoothing": smoothing, "smoothing_std": smoothing_std, "gamma": "one", "no_flow": True}
        config = ResidualNablaDBConfig(guess_jacobian="identity", **settings)
        objective = ResidualNablaDB(config)
        objective.attach(policy, reward)
        return objective.guess(policy, seen, torch.tensor(which))[0]

    added = guess([0, 1, 2], copies, size) - guess([0, 1, 2])  # minus the mean of the noise
    assert float(added.std()) == pytest.approx(size / copies**0.5, rel=0.1)
    assert abs(float(torch.corrcoef(added.flatten(1))[0, 1])) < 0.2  # two samples in the same state
    assert torch.equal(
        guess([2, 0], smoothing=copies, smoothing_std=size)[1], guess([0], smoothing=copies, smoothing_std=size)[0]
    )
