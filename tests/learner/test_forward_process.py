"""What losses of the forward process share: noise that can be drawn again, and one error in three spaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.training_utils import compute_density_for_timestep_sampling

from actors.config import PolicyConfig
from actors.noise_levels import NoiseLevels, Prediction
from actors.policy import Policy
from actors.transitions import Transitions, make_transitions
from learner.batch import Batch
from learner.forward_process import States, draw_steps, flow_time, noised, output_error, velocity_error
from tests.support.tiny_flow import make_sd3


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


def test_the_chains_own_states_are_drawn_as_ever(policy: Policy) -> None:
    policy.transitions = replace(policy.transitions, adapted=3)
    found = States.of(policy, "chain")
    assert found.chain is policy.transitions
    drawn = [torch.Generator().manual_seed(4) for _ in range(2)]
    assert found.draw(5, 2, drawn[0]).equal(draw_steps(5, 3, 2, drawn[1]))


def test_a_network_of_noise_was_trained_at_all_timesteps_alike(policy: Policy) -> None:
    found = States.of(policy, "training").draw(4000, 2, torch.Generator().manual_seed(0)).flatten()
    counts = (found // 100).bincount(minlength=10) / 8000
    assert (counts - 0.1).abs().max() < 0.02
    assert found.unique().numel() > 950


def test_a_network_of_velocities_sees_the_middle_more_often(tmp_path: Path) -> None:
    """As diffusers' density for training has it: the logistic of a normal, cut into as many timesteps as there are."""
    config = PolicyConfig(model=str(make_sd3(tmp_path / "sd3")), device="cpu", steps=4, height=16, width=16)
    policy = Policy.load(config.model_copy(update={"adapted_steps": 3}))
    states = States.of(policy, "training")
    assert states.weights is not None
    adapted = states.chain.adapted_steps
    assert 0 < adapted < 1000
    assert not states.weights[adapted:].any()
    assert (states.weights[:adapted] > 0).all()
    torch.manual_seed(0)
    drawn = compute_density_for_timestep_sampling("logit_normal", 200_000, logit_mean=0.0, logit_std=1.0)
    expected = (drawn * 10).long().bincount(minlength=10) / 200_000
    assert expected[0] < expected[4] / 3
    whole = States.of(Policy.load(config), "training")
    assert whole.weights is not None
    torch.testing.assert_close(whole.weights.view(10, 100).sum(dim=1).float(), expected, atol=5e-3, rtol=0)
    found = whole.draw(4000, 1, torch.Generator().manual_seed(0)).flatten()
    torch.testing.assert_close((found // 100).bincount(minlength=10) / 4000, expected, atol=0.03, rtol=0)
    several = whole.draw(50, 7, torch.Generator().manual_seed(0))
    assert all(len(set(row)) == 7 for row in several.tolist())


def test_a_group_shares_its_states(policy: Policy) -> None:
    groups = torch.tensor([7, 7, 3, 9, 3])
    found = States.of(policy, "training").draw_for(groups, 4, torch.Generator().manual_seed(0))
    assert found[0].equal(found[1])
    assert found[2].equal(found[4])
    assert len({tuple(row) for row in found.tolist()}) == 3


def test_a_share_of_the_prompts_is_left_out_and_others_in_each_draw(policy: Policy, batch: Batch) -> None:
    told, without = policy.encode(list(batch.prompts))["text"], policy.encode([None])["text"]
    assert without.equal(policy._unprompted["text"])  # what guidance leads away from
    rows, steps, left = torch.arange(6), torch.full((6,), 2), []
    for number in range(150):
        state = noised(policy, batch, rows, steps, number, dropout=0.3)
        missing = (state.conditioning["text"] == without).flatten(1).all(dim=1)
        assert state.conditioning["text"][~missing].equal(told[~missing])
        assert state.x.equal(noised(policy, batch, rows, steps, number).x)
        left.append(missing)
    share = torch.stack(left).float()
    assert float(share.mean()) == pytest.approx(0.3, abs=0.05)
    assert (share.mean(dim=0) - 0.3).abs().max() < 0.13  # not always the same
