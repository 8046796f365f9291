"""DiffusionNFT: the loss on values computed by hand, its gradient at the old policy, and what trails behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from actors.policy import Policy
from learner.batch import Batch
from learner.forward_process import noised
from learner.learner import Learner, LearnerConfig
from learner.objectives.nft import NFT, OLD, NFTConfig, nft_loss, optimality


def scalar(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def test_advantages_become_shares() -> None:
    found = optimality(torch.tensor([-9.0, -5.0, 0.0, 2.5, 5.0, 9.0]), 5.0)
    assert found.tolist() == [0, 0, 0.5, 0.75, 1, 1]


@pytest.mark.parametrize(("strength", "expected"), [(1.0, 0.375), (0.1, 4.875)])
def test_the_loss_of_one_number(strength: float, expected: float) -> None:
    """F8: x0 1, old .9, new .95, r .75."""
    found = 5 * nft_loss(scalar(1), scalar(0.95), scalar(0.9), torch.tensor([0.75]), strength)
    assert float(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("strength", [1.0, 0.1])
def test_the_gradient_at_the_old_policy_is_the_advantage_whatever_the_strength(strength: float) -> None:
    new = scalar(0.9).requires_grad_()
    (5 * nft_loss(scalar(1), new, scalar(0.9), torch.tensor([0.75]), strength)).sum().backward()
    assert float(new.grad) == pytest.approx(-5, abs=1e-6)  # 2 A (x0_old - x0) / w with A 2.5, w .1


def test_the_trailing_adapter_draws_and_follows(policy: Policy, draw: Callable[..., Batch]) -> None:
    """One update has it keep a thousandth of itself; a checkpoint has the number of updates."""
    objective = NFTConfig(states=2).build()
    learner = Learner(LearnerConfig(lr=1e-2), policy, objective)
    before = learner.weights().flat.copy()
    learner.step(replace(draw(policy), clean=torch.randn(6, *policy.latent_shape)))
    after, trailing = torch.from_numpy(policy.weights()[0]), torch.from_numpy(learner.weights().flat)
    assert learner.weights().flat.tolist() == policy.weights(OLD)[0].tolist()
    torch.testing.assert_close(trailing, 1e-3 * torch.from_numpy(before) + (1 - 1e-3) * after)
    assert not trailing.equal(after)
    assert objective.state_dict() == {"steps": 1}


@pytest.mark.parametrize(("trail", "steps", "kept"), [("early", 600, 0.5), ("late", 75, 0.0), ("late", 95, 0.15)])
def test_what_it_keeps_grows_with_the_updates(
    trail: str, steps: int, kept: float, policy: Policy, nudge: Callable[..., None]
) -> None:
    objective = NFTConfig.model_validate({"trail": trail}).build()
    policy.snapshot(OLD)
    objective.load_state_dict({"steps": steps - 1})
    start = torch.from_numpy(policy.weights(OLD)[0].copy())
    nudge(policy)
    objective.end(policy, 1)
    expected = kept * start + (1 - kept) * torch.from_numpy(policy.weights()[0])
    torch.testing.assert_close(torch.from_numpy(policy.weights(OLD)[0]), expected)


def test_a_sample_as_bad_as_another_is_good_pushes_the_other_way(policy: Policy, draw: Callable[..., Batch]) -> None:
    """At theta = old the gradient is linear in the advantage, and a dropped sample has none."""
    rewards = torch.tensor([2.0, -1, torch.nan, 3, -4, 0])
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape), rewards=rewards)
    objective = NFTConfig(states=5, step_fraction=1.0, kl_weight=0.0).build()
    objective.attach(policy, None)
    policy.snapshot(OLD)

    def gradient(factor: float, objective: NFT = objective) -> Tensor:
        policy.network.zero_grad()
        scaled = replace(batch, rewards=factor * rewards)
        part = next(objective.parts(scaled, torch.Generator().manual_seed(0)))
        assert sorted(part.samples.tolist()) == [0, 1, 3, 4, 5]
        objective.backward(policy, scaled, part, micro_batch=8)
        return torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None])

    plain = gradient(1.0)
    assert plain.abs().max() > 1e-4
    torch.testing.assert_close(gradient(-1.0), -plain, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(gradient(0.5), 0.5 * plain, rtol=1e-3, atol=1e-6)
    # Where none is clipped, the largest advantage is only a scale of r.
    wider = NFTConfig(states=5, step_fraction=1.0, kl_weight=0.0, max_advantage=20.0).build()
    wider.attach(policy, None)
    torch.testing.assert_close(gradient(1.0, wider), plain, rtol=1e-3, atol=1e-6)


def test_a_network_of_noise_is_held_by_its_noise(
    policy: Policy, draw: Callable[..., Batch], nudge: Callable[..., None]
) -> None:
    """Not by its velocity, whose distance at the noisy end counts many times as much."""
    policy.snapshot(OLD)
    nudge(policy)
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape))
    objective = NFTConfig(states=5, step_fraction=1.0).build()
    objective.attach(policy, None)
    part = next(objective.parts(batch, torch.Generator().manual_seed(0)))
    found = objective.backward(policy, batch, part, micro_batch=8)
    rows, steps = part.samples.repeat_interleave(5), part.columns.flatten()
    with torch.no_grad():
        state = noised(policy, batch, rows, steps)
        new = policy.predict(state.x, steps, state.conditioning, False)
        with policy.using(None):
            expected = (new - policy.predict(state.x, steps, state.conditioning, False)).square().mean()
    assert found["distance/pretrained"] == pytest.approx(float(expected), rel=1e-4)
    assert found["distance/behaviour"] == pytest.approx(float(expected), rel=1e-4)  # the adapter was not trained yet
