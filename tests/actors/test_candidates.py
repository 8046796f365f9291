"""Next states that are drawn beside those of the chain: their noise, and what they are predicted to become."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from actors.policy import Policy
from actors.rollout import noise, rollout
from actors.trajectories import EVALUATION, Request
from actors.transitions import log_prob

REQUEST = Request(
    seed=7, iteration=3, prompts=("a red circle",) * 2 + ("two blue squares",), prompt_index=(5, 5, 6),
    sample_index=(0, 1, 0), stored_steps=(1, 2, 4), candidates=3,
)  # fmt: skip


def test_the_chain_is_the_one_without_candidates(policy: Policy) -> None:
    """Bit for bit: the first of them is what it goes on with."""
    images, found = rollout(policy, REQUEST)
    plain_images, plain = rollout(policy, replace(REQUEST, candidates=1))
    assert plain.candidates is plain.predicted is plain.times is None
    assert np.array_equal(images, plain_images)
    for name in ("latents", "next_latents", "log_probs"):
        assert np.array_equal(getattr(found, name), getattr(plain, name))
    assert found.candidates is not None
    assert np.array_equal(found.candidates[:, :, 0], found.next_latents)
    assert found.candidates.shape == (3, 3, 3, *policy.latent_shape)


def test_they_do_not_depend_on_who_is_sampled_beside(policy: Policy) -> None:
    _, found = rollout(policy, REQUEST)
    for row in range(3):
        alone = replace(
            REQUEST, prompts=REQUEST.prompts[row : row + 1], prompt_index=REQUEST.prompt_index[row : row + 1],
            sample_index=REQUEST.sample_index[row : row + 1],
        )  # fmt: skip
        _, one = rollout(policy, alone)
        assert found.candidates is not None
        assert one.candidates is not None
        np.testing.assert_allclose(one.candidates[0], found.candidates[row], atol=1e-5)
    _, again = rollout(policy, REQUEST)
    for name in ("candidates", "predicted", "times"):
        assert np.array_equal(getattr(again, name), getattr(found, name))


def test_each_has_noise_of_its_own_around_one_mean(policy: Policy) -> None:
    _, found = rollout(policy, REQUEST)
    assert found.candidates is not None
    for column, step in enumerate(REQUEST.stored_steps):
        draws = [noise(REQUEST.keys, step + 1, policy.latent_shape, candidate) for candidate in range(3)]
        std = float(policy.transitions.std[step])
        for number in (1, 2):
            apart = found.candidates[:, column, number] - found.candidates[:, column, 0]
            np.testing.assert_allclose(apart, std * (draws[number] - draws[0]), atol=1e-5)


@pytest.mark.parametrize("iteration", [0, EVALUATION])
def test_no_two_keys_give_the_same_noise(iteration: int) -> None:
    keys = np.array([(0, iteration, 0, 0, 0), (0, iteration, 0, 1, 1)], np.uint64)
    drawn = [noise(keys, step, (2, 32), candidate) for step in (1, 2, 3) for candidate in range(4)]
    values = torch.stack(drawn).flatten(0, 1).flatten(1)
    close = torch.corrcoef(values) - torch.eye(len(values))
    assert close.abs().max() < 0.65
    assert len({row.numpy().tobytes() for row in values}) == len(values)


def test_they_are_shown_as_the_policy_predicts_them(policy: Policy) -> None:
    """The last are images already, at the time 0; the others are told the timestep of the state that they are."""
    images, found = rollout(policy, REQUEST)
    assert found.candidates is not None
    assert found.predicted is not None
    assert found.times is not None
    chain = policy.transitions
    assert found.times.tolist() == [float(chain.timesteps[2]), float(chain.timesteps[3]), 0.0]
    text = policy.encode(REQUEST.prompts)
    for column, step in enumerate(REQUEST.stored_steps):
        for number in range(3):
            state = torch.from_numpy(found.candidates[:, column, number].copy())
            with torch.no_grad():
                shown = policy.decode(policy.clean(state, torch.full((3,), step + 1), text))
            off = (shown * 255).round().permute(0, 2, 3, 1).numpy() - found.predicted[:, column, number]
            assert np.abs(off).max() <= 1
    assert np.array_equal(found.predicted[:, 2, 0], images)


def test_they_have_the_density_of_the_policy(policy: Policy) -> None:
    """What the stored log-probability says of the first is what the others are judged by too."""
    _, found = rollout(policy, REQUEST)
    assert found.candidates is not None
    text = policy.encode(REQUEST.prompts)
    for column, step in enumerate(REQUEST.stored_steps):
        x, index = torch.from_numpy(found.latents[:, column].copy()), torch.full((3,), step)
        with torch.no_grad():
            mean = policy.transitions.mean(x, policy.predict(x, index, text), index)
        density = log_prob(
            torch.from_numpy(found.candidates[:, column, 0].copy()), mean, policy.transitions.std_at(index, x)
        )
        np.testing.assert_allclose(density, found.log_probs[:, column], atol=1e-5)


def test_a_prediction_is_not_made_twice(policy: Policy) -> None:
    """Two more candidates after steps 1 and 2, whose first the chain predicts itself; none after the last."""
    before = policy.evaluations
    rollout(policy, REQUEST)
    assert policy.evaluations - before == 3 * policy.passes * (len(policy.transitions) + 2 * 2)


def test_a_candidate_that_is_not_finite_is_not_there(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of the first step's, in the second row; the chain itself goes on."""
    _, whole = rollout(policy, REQUEST)
    calls, decode = count(), policy.decode

    def broken(latents: torch.Tensor) -> torch.Tensor:
        images = decode(latents)
        if next(calls) == 1:
            images[1, 0, 0, 0] = math.nan
        return images

    monkeypatch.setattr(policy, "decode", broken)
    images, found = rollout(policy, REQUEST)
    assert not np.ma.is_masked(images)
    assert whole.predicted is not None
    assert not np.ma.isMaskedArray(whole.predicted)
    missing = np.ma.getmaskarray(found.predicted)
    assert missing[1, 0, 1].all()
    assert missing.sum() == missing[1, 0, 1].size
    assert np.array_equal(np.ma.getdata(found.predicted)[~missing], whole.predicted[~missing])
