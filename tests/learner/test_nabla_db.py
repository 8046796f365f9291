"""nabla-DB and its residual form on the tiny pipeline: scores, stop-gradients and invariants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.schedules import variance_preserving
from actors.transitions import log_prob, make_transitions
from learner.batch import Batch
from learner.flow_function import FlowConfig
from learner.learner import Learner, LearnerConfig
from learner.objectives.nabla_db import NablaDB, NablaDBConfig, Seen, predict_piece
from learner.objectives.objective import Part
from learner.objectives.ppod import PPODConfig
from learner.objectives.refl import ReFLConfig
from learner.objectives.residual_nabla_db import ResidualNablaDB, ResidualNablaDBConfig
from learner.objectives.residual_nabla_db_release import ResidualNablaDBReleaseConfig

SMALL = FlowConfig(widths=(8,), heads=2, groups=4)
EVERYTHING = Part(torch.arange(6), torch.arange(5).expand(6, 5))


class Curved:
    """A reward whose gradient depends on the image, and that writes down what it was asked."""

    def __init__(self, broken: Sequence[str] = ()) -> None:
        self.asked: list[tuple[int, list[str]]] = []
        self.broken = broken

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.sin(3 * images).flatten(1).sum(dim=1)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        assert not images.requires_grad
        self.asked.append((len(images), list(prompts)))
        gradient = 3 * torch.cos(3 * images)
        for row, prompt in enumerate(prompts):
            if prompt in self.broken:
                gradient[row] = float("nan")
        return self.score(images, prompts), gradient


@pytest.fixture
def make(policy: Policy, nudge: Callable[[Policy], None]) -> Callable[..., ResidualNablaDB]:
    """Residual nabla-DB on the tiny pipeline, whose policy has moved and whose flow function is not zero."""

    def build(release: bool = False, reward: Any = None, **options: Any) -> ResidualNablaDB:
        kind = ResidualNablaDBReleaseConfig if release else ResidualNablaDBConfig
        settings = {"flow": SMALL, "step_fraction": 1.0, "beta": 2.0, **options}
        objective = kind(**settings).build()
        objective.attach(policy, reward or Curved())
        if objective.flow is not None:
            torch.manual_seed(0)
            torch.nn.init.normal_(objective.flow.network.unet.conv_out.weight, std=0.1)
        return objective

    nudge(policy)
    return build


@pytest.fixture
def batch(policy: Policy, nudge: Callable[[Policy], None], draw: Callable[..., Batch]) -> Batch:
    """Every transition of six samples."""
    nudge(policy)
    return draw(policy, steps=(0, 1, 2, 3, 4))


def gradients(objective: NablaDB, policy: Policy, batch: Batch, part: Part = EVERYTHING, micro: int = 99) -> Any:
    """Gradients of a part with respect to policy and flow function, as two flat vectors, and the metrics."""
    for parameter in policy.parameters:
        parameter.grad = None
    if objective.flow is not None:
        objective.flow.optimizer.zero_grad()
    metrics = objective.backward(policy, batch, part, micro)
    flow = [] if objective.flow is None else list(objective.flow.network.parameters())

    def flat(parameters: Sequence[Tensor]) -> Tensor:
        return torch.cat([torch.zeros(p.numel()) if p.grad is None else p.grad.flatten() for p in parameters])

    return flat(policy.parameters), flat(flow) if flow else torch.zeros(1), metrics


def close(one: Tensor, other: Tensor) -> None:
    """Equal but for the rounding of sums in float32, which goes with the largest entries."""
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(other.abs().max()))


def test_the_kappa_form_is_the_difference_of_the_forward_scores(
    policy: Policy, batch: Batch, make: Callable[..., ResidualNablaDB]
) -> None:
    piece = make().piece(policy, batch, torch.arange(6).repeat(5), torch.arange(5).repeat_interleave(6))

    def score(mean: Tensor) -> Tensor:
        x_next = piece.x_next.detach().requires_grad_()
        density = -((x_next - mean.detach()) ** 2) / (2 * piece.std**2)
        return torch.autograd.grad(density.sum(), x_next)[0]

    with policy.using(None):
        reference = policy.transitions.mean(
            piece.x, policy.predict(piece.x, piece.step, piece.conditioning), piece.step
        )
    forward, _ = make().scores(policy, piece)
    torch.testing.assert_close(forward.detach(), score(piece.mean) - score(reference), rtol=2e-3, atol=2e-3)
    assert forward.detach().abs().max() > 0.1


def test_the_sampled_reverse_score_is_the_gradient_of_the_log_probability(policy: Policy, batch: Batch) -> None:
    piece = predict_piece(policy, batch, torch.arange(6), torch.tensor([0, 1, 2, 3, 4, 4]))
    dimensions = piece.x[0].numel()
    density = log_prob(piece.x_next, piece.mean, piece.std).sum() * dimensions
    (expected,) = torch.autograd.grad(density, piece.x, retain_graph=True)
    torch.testing.assert_close(NablaDB.reverse_score(piece), expected, rtol=1e-4, atol=1e-4)


def reference_losses(
    objective: ResidualNablaDB, policy: Policy, batch: Batch, *, joint: bool, reverse_on_last: bool
) -> tuple[Tensor, Tensor]:
    """Forward and flow losses of every transition, written down plainly, with every stop-gradient."""
    config, transitions = objective.config, policy.transitions
    rows, cols = EVERYTHING.samples.repeat_interleave(5), EVERYTHING.columns.flatten()
    x, x_next, step = batch.latents[rows, cols], batch.next_latents[rows, cols], batch.steps[cols]
    prompts = [batch.prompts[i] for i in rows.tolist()]
    conditioning, final = policy.encode(prompts), (cols == 4).view(-1, 1, 1, 1)

    def guess(x: Tensor, state: Tensor) -> Tensor:
        leaf = x.clone().requires_grad_()
        images = policy.decode(policy.clean(leaf, state, conditioning))
        of_images = Curved().score_and_grad(images.detach(), prompts)[1]
        gamma = transitions.alpha_bar[state]
        if not config.fade_image:
            gamma = torch.where(state == 5, 1.0, gamma)
        return (config.beta * gamma.view(-1, 1, 1, 1) * torch.autograd.grad(images, leaf, of_images)[0]).detach()

    policy_leaf = x.clone().requires_grad_()
    policy_noise = policy.predict(policy_leaf, step, conditioning)
    with policy.using(None), torch.enable_grad():
        leaf = x.clone().requires_grad_()
        reference = policy.predict(leaf, step, conditioning)
        mean = transitions.mean(leaf, reference, step)
        u = transitions.score_weight(step, x) * (policy_noise - reference.detach())
        sampled = (x_next - mean.detach()) / transitions.std_at(step, x) ** 2
        reverse = torch.autograd.grad(mean, leaf, u.detach() if config.expected_scores else sampled)[0]
    if not config.expected_scores:
        mean = transitions.mean(policy_leaf, policy_noise, step)
        own = (x_next - mean.detach()) / transitions.std_at(step, x) ** 2
        reverse = reverse - torch.autograd.grad(mean, policy_leaf, own, retain_graph=True)[0]
    flow_next = objective.flow(x_next, step + 1, conditioning)
    known = torch.where(final, 0.0, flow_next)
    target = guess(x_next, step + 1) + (known if joint else known.detach())

    def square(values: Tensor) -> Tensor:  # every transition was drawn, so all weigh the same
        return values.square().flatten(1).mean(dim=1).mean()

    scale = 1 / transitions.score_weight(step, x) if config.weighting == "output" else 1.0
    forward = square(scale * (u - target))
    reverse_residual = objective.flow(x, step, conditioning) + guess(x, step) - reverse.detach()
    if not reverse_on_last:
        reverse_residual = torch.where(final, 0.0, reverse_residual)
    flow_loss = config.reverse_weight * square(scale * reverse_residual) + square(torch.where(final, flow_next, 0.0))
    return forward, flow_loss


@pytest.mark.parametrize("release", [False, True])
def test_gradients_are_those_of_the_losses_with_every_stop_gradient(
    release: bool, policy: Policy, batch: Batch, make: Callable[..., ResidualNablaDB]
) -> None:
    objective = make(release, regularisation=0.0)
    of_policy, of_flow, metrics = gradients(objective, policy, batch)
    flow_parameters = list(objective.flow.network.parameters())
    forward, flow_loss = reference_losses(objective, policy, batch, joint=release, reverse_on_last=not release)
    expected = torch.autograd.grad(forward, policy.parameters, retain_graph=True)
    close(of_policy, torch.cat([g.flatten() for g in expected]))
    total = flow_loss + forward if release else flow_loss
    expected = torch.autograd.grad(total, flow_parameters, allow_unused=True)
    flat = [
        torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(expected, flow_parameters, strict=True)
    ]
    torch.testing.assert_close(of_flow, torch.cat(flat), rtol=1e-3, atol=1e-5)
    assert metrics["loss/forward"] == pytest.approx(float(forward), rel=1e-3)
    assert of_policy.abs().max() > 1e-4
    assert of_flow.abs().max() > 1e-4


def test_the_reverse_loss_does_not_train_the_policy(
    policy: Policy, batch: Batch, make: Callable[..., ResidualNablaDB]
) -> None:
    found = []
    for weight in (0.0, 1.0, 1000.0):
        for sampled in (True, False):
            objective = make(reverse_weight=weight, expected_scores=not sampled)
            found.append(gradients(objective, policy, batch)[0])
    for other in found[1:]:
        close(other, found[0])


@pytest.mark.parametrize("detach", [True, False])
def test_the_forward_loss_trains_the_flow_function_only_in_the_release(
    detach: bool, policy: Policy, batch: Batch, make: Callable[..., ResidualNablaDB]
) -> None:
    inner = Part(EVERYTHING.samples, EVERYTHING.columns[:, :4])  # no last transition, so no terminal loss
    objective = make(detach_flow=detach, reverse_weight=0.0)
    _, of_flow, _ = gradients(objective, policy, replace(batch, steps=batch.steps[:4]), inner)
    assert (of_flow.abs().max() == 0) == detach


def test_no_gradient_reaches_the_trajectory_or_the_reward(
    policy: Policy, batch: Batch, make: Callable[..., ResidualNablaDB]
) -> None:
    tracked = replace(
        batch, latents=batch.latents.clone().requires_grad_(), next_latents=batch.next_latents.clone().requires_grad_()
    )
    objective = make()
    plain = gradients(objective, policy, batch)[0]
    with_tracking = gradients(objective, policy, tracked)[0]
    torch.testing.assert_close(plain, with_tracking)
    assert tracked.latents.grad is None
    assert tracked.next_latents.grad is None


def test_the_change_is_measured_from_the_start_of_the_update_without_gradient(
    policy: Policy, batch: Batch, make: Callable[..., ResidualNablaDB], nudge: Callable[..., None]
) -> None:
    objective = make(regularisation=50.0, no_flow=True, flow=FlowConfig(), beta=0.0, reward=Curved())
    objective.begin(policy, batch, 0)
    plain = make(no_flow=True, flow=FlowConfig(), beta=0.0)
    first, _, metrics = gradients(objective, policy, batch)
    torch.testing.assert_close(first, gradients(plain, policy, batch)[0])
    assert metrics["loss/change"] == 0
    nudge(policy, 0.05)
    second, _, metrics = gradients(objective, policy, batch)
    assert metrics["loss/change"] > 0
    assert (second - gradients(plain, policy, batch)[0]).abs().max() > 1e-4


def test_at_the_start_the_forward_loss_is_the_mean_square_of_the_reward_gradient(
    policy_config: PolicyConfig, draw: Callable[..., Batch]
) -> None:
    fresh = Policy.load(policy_config)
    objective = ResidualNablaDBConfig(flow=SMALL, step_fraction=1.0, beta=2.0, weighting="none").build()
    objective.attach(fresh, Curved())
    _, _, metrics = gradients(objective, fresh, draw(fresh, steps=(0, 1, 2, 3, 4)))
    assert metrics["size/flow"] == 0
    assert metrics["loss/forward"] == pytest.approx(metrics["size/reward_gradient"], rel=1e-6)
    assert metrics["loss/forward"] > 0


def test_the_drift_of_a_transition_is_bounded_in_its_own_noise(
    policy: Policy, batch: Batch, make: Callable[..., ResidualNablaDB]
) -> None:
    limit, prompts = 0.5, list(batch.prompts)
    state = torch.tensor([1, 2, 3, 4, 5, 5])
    std = policy.transitions.std_at(state - 1, batch.latents[:, 0])

    def guess(**options: Any) -> Tensor:
        x = batch.next_latents[torch.arange(6), state - 1].clone().requires_grad_()
        prediction = policy.predict(x, state.clamp(max=4), policy.encode(prompts))  # of the images it is not used
        return make(**options).guess(policy, Seen(x, state, prediction, prompts, None), torch.arange(6))[0]

    exact = guess()
    drift = (std * exact).flatten(1).norm(dim=1)
    middle = float(drift.median())
    bounded = guess(max_drift=middle)
    factor = (middle / drift).clamp(max=1).view(-1, 1, 1, 1)
    assert 0 < int((factor < 1).sum()) < 6  # some are shortened, the others are left alone
    torch.testing.assert_close(bounded, factor * exact)
    scaled = guess(max_drift=limit, beta=1e6)
    torch.testing.assert_close((std * scaled).flatten(1).norm(dim=1), torch.full((6,), limit))


def test_a_state_has_one_bounded_guess_whichever_loss_asks(
    policy_config: PolicyConfig, draw: Callable[..., Batch]
) -> None:
    # Bounded everywhere, a fresh policy and a flow function of zero: both losses are known from the bound alone.
    fresh, limit = Policy.load(policy_config), 0.5
    settings = {"step_fraction": 1.0, "beta": 1e6, "max_drift": limit, "weighting": "variance"}
    objective = ResidualNablaDBConfig(flow=SMALL, **settings).build()
    objective.attach(fresh, Curved())
    batch, std = draw(fresh, steps=(0, 1, 2, 3, 4)), fresh.transitions.std
    _, _, metrics = gradients(objective, fresh, batch)
    dimensions = batch.latents[0, 0].numel()
    assert metrics["loss/forward"] == pytest.approx(limit**2 / dimensions, rel=1e-4)
    leading = std[(torch.arange(5) - 1).clamp(min=0)]  # state t is led to by transition t - 1
    assert metrics["loss/reverse"] == pytest.approx(
        float((std / leading).square().mean()) * limit**2 / dimensions, rel=1e-4
    )


def test_without_a_reward_the_pretrained_model_is_the_optimum(
    policy_config: PolicyConfig, draw: Callable[..., Batch]
) -> None:
    fresh = Policy.load(policy_config)
    objective = ResidualNablaDBConfig(flow=SMALL, step_fraction=1.0, beta=0.0).build()
    objective.attach(fresh, Curved())
    of_policy, of_flow, metrics = gradients(objective, fresh, draw(fresh, steps=(0, 1, 2, 3, 4)))
    assert metrics["loss"] == 0
    assert of_policy.abs().max() == 0
    assert of_flow.abs().max() == 0


@pytest.mark.parametrize("release", [False, True])
def test_the_gradient_does_not_depend_on_the_micro_batch(
    release: bool, policy: Policy, batch: Batch, make: Callable[..., ResidualNablaDB]
) -> None:
    objective = make(release, lag=0)
    objective.begin(policy, batch, 0)
    whole = gradients(objective, policy, batch)
    for micro in (7, 3):  # whole chains, and cut ones
        pieces = gradients(objective, policy, batch, micro=micro)
        for one, other in zip(whole[:2], pieces[:2], strict=True):
            close(one, other)
        for name, value in whole[2].items():
            assert pieces[2][name] == pytest.approx(value, rel=1e-4, abs=1e-6)


def test_the_reward_is_asked_about_each_image_with_its_own_prompt(
    policy: Policy, batch: Batch, make: Callable[..., ResidualNablaDB]
) -> None:
    reward = Curved()
    part = Part(torch.tensor([4, 0, 2]), torch.tensor([[0, 4], [1, 4], [3, 4]]))
    gradients(make(reward=reward, subsample="steps", step_fraction=0.4), policy, batch, part, micro=4)
    prompts = [batch.prompts[i] for i in (4, 4, 0, 0, 2, 2)]
    # Where transitions start, then where they end; the last two meet at a state.
    assert reward.asked == [(4, prompts[:4])] * 2 + [(2, prompts[4:]), (1, prompts[5:])]


def test_images_that_cannot_be_judged_take_no_part_and_are_counted(
    policy: Policy, batch: Batch, make: Callable[..., ResidualNablaDB]
) -> None:
    broken = make(reward=Curved(broken=["a red circle"]))
    of_policy, of_flow, metrics = gradients(broken, policy, batch)
    assert metrics["unjudged"] == pytest.approx(0.5)
    half = Part(EVERYTHING.samples[3:], EVERYTHING.columns[3:])
    expected = gradients(make(), policy, batch, half)
    close(2 * of_policy, expected[0])
    close(2 * of_flow, expected[1])


def test_a_chain_without_noise_in_the_last_step_is_refused(policy_config: PolicyConfig) -> None:
    scheduler = DDIMScheduler(clip_sample=False)  # ends at alpha_bar 1
    with pytest.raises(ValueError, match=r"needs noise in the last step .* policy\.final_sigma"):
        ResidualNablaDBConfig.asks.check("residual_nabla_db", make_transitions(variance_preserving(scheduler, 5)))
    policy = Policy.load(policy_config.model_copy(update={"eta": 0.0}))
    for objective in (ResidualNablaDBConfig(flow=SMALL), PPODConfig(), ReFLConfig()):
        with pytest.raises(ValueError, match=r"policy\.eta above 0"):
            Learner(LearnerConfig(), policy, objective.build(), reward=Curved())


def test_a_checkpoint_carries_the_flow_function(policy: Policy, draw: Callable[..., Batch], tmp_path: Any) -> None:
    config = LearnerConfig(lr=1e-2)
    objective = ResidualNablaDBConfig(flow=SMALL, step_fraction=0.4).build()
    learner = Learner(config, policy, objective, reward=Curved())
    learner.step(draw(policy, steps=(0, 1, 2, 3, 4)))
    learner.save(tmp_path)
    expected = learner.step(draw(policy, version=1, steps=(0, 1, 2, 3, 4))).metrics
    flow_after = [p.clone() for p in objective.flow.network.parameters()]

    again = ResidualNablaDBConfig(flow=SMALL, step_fraction=0.4).build()
    restored = Learner(config, policy, again, reward=Curved())
    restored.restore(tmp_path)
    found = restored.step(draw(policy, version=1, steps=(0, 1, 2, 3, 4))).metrics
    assert found == pytest.approx(expected)
    for one, other in zip(flow_after, again.flow.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert "grad_norm/flow" in found


def test_the_release_preset_builds_and_says_what_it_changes() -> None:
    exact, release = ResidualNablaDBConfig(), ResidualNablaDBReleaseConfig()
    changed = {name for name in ResidualNablaDBConfig.model_fields if getattr(exact, name) != getattr(release, name)}
    assert changed >= {"detach_flow", "reverse_on_last", "expected_scores", "unbiased", "fade_image", "flow"}
    assert changed >= {"weighting", "subsample", "lag"}
    assert isinstance(release.build(), ResidualNablaDB)
    assert isinstance(NablaDBConfig().build(), NablaDB)
