"""What losses of the forward process share: noise that can be drawn again, and one error in three spaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from actors.noise_levels import NoiseLevels, Prediction
from actors.policy import Policy
from actors.transitions import Transitions, make_transitions
from learner.batch import Batch
from learner.forward_process import draw_steps, flow_time, noised, output_error, velocity_error


@pytest.fixture
def batch(policy: Policy, draw: Callable[..., Batch]) -> Batch:
    return replace(draw(policy), clean=torch.randn(6, *policy.latent_shape, generator=torch.Generator().manual_seed(0)))


def chain(prediction: Prediction, signal: float = 0.8, sigma: float = 0.6) -> Transitions:
    """One state and the image."""
    levels = NoiseLevels(
        torch.tensor([500]), *(torch.tensor(v).double() for v in ([signal, 1], [sigma, 0])), prediction
    )
    return make_transitions(levels)


def test_the_same_arguments_give_the_same_noise_and_others_another(policy: Policy, batch: Batch) -> None:
    rows, steps = torch.tensor([0, 1, 5]), torch.tensor([2, 2, 4])
    first = noised(policy, batch, rows, steps)
    assert first.x.equal(noised(policy, batch, rows, steps).x)
    assert first.x[1:].equal(noised(policy, batch, rows[1:], steps[1:]).x)  # whoever else is in the micro-batch
    for other in (noised(policy, batch, rows, steps, draw=1), noised(policy, batch, rows.flip(0), steps)):
        assert not torch.isclose(first.x, other.x).any(dim=(1, 2, 3)).all()


def test_the_states_have_the_chains_share_of_image_and_noise(policy: Policy, batch: Batch) -> None:
    rows, steps = torch.arange(6), torch.tensor([0, 1, 2, 3, 4, 0])
    state = noised(policy, batch, rows, steps)
    signal, sigma = (t[steps].float().view(-1, 1, 1, 1) for t in (policy.transitions.signal, policy.transitions.sigma))
    noise = (state.x - signal * state.clean) / sigma
    assert state.clean.equal(batch.clean)
    assert abs(float(noise.mean())) < 0.05
    assert float(noise.std()) == pytest.approx(1, abs=0.05)


def test_a_group_may_share_its_noise(policy: Policy, batch: Batch) -> None:
    assert batch.clean is not None
    same = replace(batch, clean=torch.zeros_like(batch.clean))
    steps = torch.full((6,), 2)
    shared, own = (noised(policy, same, torch.arange(6), steps, per_group=flag).x for flag in (True, False))
    assert shared[0].equal(shared[1])
    assert not shared[0].equal(shared[3])  # of another group
    assert not own[0].equal(own[1])


def test_an_error_of_the_output_is_that_of_every_other_prediction() -> None:
    """F1: a network of noise that is .1 off at signal .8 and sigma .6: .075 in the image, .175 in the velocity."""
    step, x = torch.tensor([0]), torch.full((1, 1, 1, 1), 0.5)
    by_noise = chain("epsilon")
    image, other = by_noise.clean(x, torch.full_like(x, -0.5), step), by_noise.clean(x, torch.full_like(x, -0.4), step)
    assert float(image) == pytest.approx(1)
    assert float(other - image) == pytest.approx(-0.075)
    assert float(output_error(by_noise, image, other, step)) == pytest.approx(0.1**2, rel=1e-5)
    assert float(velocity_error(by_noise, image, other, step)) == pytest.approx(0.175**2, rel=1e-5)
    assert float(flow_time(by_noise, step, x)) == pytest.approx(0.4285714286)
    assert float(output_error(chain("v_prediction"), image, other, step)) == pytest.approx(0.125**2, rel=1e-5)
    by_velocity = chain("velocity")
    assert float(by_velocity.clean(x, torch.full_like(x, -1.5), step)) == pytest.approx(1)
    assert float(output_error(by_velocity, image, other, step)) == pytest.approx(0.175**2, rel=1e-5)


def test_steps_are_drawn_without_repeats_and_evenly() -> None:
    found = draw_steps(4000, 5, 3, torch.Generator().manual_seed(0))
    assert found.shape == (4000, 3)
    assert all(len(set(row)) == 3 for row in found.tolist())
    assert (found.flatten().bincount() / 12_000 - 0.2).abs().max() < 0.02
    assert draw_steps(2, 3, 9, torch.Generator()).sort(dim=1).values.tolist() == [[0, 1, 2]] * 2
