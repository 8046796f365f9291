"""The KL of whole chains from one state of each: against the sum over all steps, and what travels of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from actors.chain_kl import draw_kl_steps, kl_from, kl_shares
from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request, Trajectories
from actors.transitions import kl

Nudge = Callable[..., None]
PROMPTS = ("a red circle",) * 3 + ("two blue squares",) * 3
REQUEST = Request(0, 0, PROMPTS, (0,) * 3 + (1,) * 3, (0, 1, 2) * 2, (0, 1, 2, 3, 4), kl=True)


@torch.no_grad()
def exact(policy: Policy, drawn: Trajectories) -> Tensor:
    """KLs `(B, T)` in nats of every step of chains whose every state is stored, as two Gaussians' KL."""
    told, found = policy.encode(drawn.prompts), []
    for step in range(len(policy.transitions)):
        x, at = torch.from_numpy(drawn.latents[:, step]), torch.full((len(PROMPTS),), step)
        mean = policy.transitions.mean(x, policy.predict(x, at, told), at)
        with policy.using(None):
            before = policy.transitions.mean(x, policy.predict(x, at, told), at)
        found.append(kl(mean, before, policy.transitions.std_at(at, x)) * x[0].numel())
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("adapted", [None, 3])
def test_the_mean_over_the_draws_is_the_sum_over_the_steps(policy: Policy, nudge: Nudge, adapted: int | None) -> None:
    """Exactly: each step's estimate times its share, chain by chain."""
    nudge(policy)
    policy.transitions = replace(policy.transitions, adapted=adapted)
    drawn = rollout(policy, REQUEST)[1]
    of_steps, shares = exact(policy, drawn), kl_shares(policy.transitions)
    told, mean = policy.encode(PROMPTS), torch.zeros(len(PROMPTS))
    for step, share in enumerate(shares.tolist()):
        x, at = torch.from_numpy(drawn.latents[:, step]), torch.full((len(PROMPTS),), step)
        with torch.no_grad():
            now = policy.predict(x, at, told)
            with policy.using(None):
                before = policy.predict(x, at, told)
        mean += share * kl_from(policy.transitions, now, before)
    torch.testing.assert_close(mean, of_steps.sum(dim=1), rtol=1e-3, atol=1e-5)
    assert of_steps.sum() > 1
    assert (shares > 0).tolist() == [step < (adapted or 5) for step in range(5)]


def test_steps_are_drawn_by_their_shares_and_by_the_keys_alone(policy: Policy) -> None:
    keys = np.array([(1, 2, prompt, sample, 0) for prompt in range(40) for sample in range(100)], np.uint64)
    steps, shares = draw_kl_steps(policy.transitions, keys), kl_shares(policy.transitions)
    found = steps.bincount(minlength=5) / len(steps)
    assert ((found - shares).abs() < 4 * (shares * (1 - shares) / len(steps)).sqrt()).all()
    assert torch.equal(draw_kl_steps(policy.transitions, keys[::-1]), steps.flip(0))
    alike = keys.copy()
    alike[:, 4] = 7  # who shares the initial noise does not share the step
    assert torch.equal(draw_kl_steps(policy.transitions, alike), steps)


@pytest.mark.parametrize("adapted", [None, 3])
def test_a_rollout_brings_the_drawn_state_and_its_estimate(policy: Policy, nudge: Nudge, adapted: int | None) -> None:
    nudge(policy)
    policy.transitions = replace(policy.transitions, adapted=adapted)
    drawn = rollout(policy, REQUEST)[1]
    assert drawn.kl is not None
    assert drawn.kl_states is not None
    assert drawn.kl_steps is not None
    assert (drawn.kl_steps == draw_kl_steps(policy.transitions, drawn.keys).numpy()).all()
    rows = np.arange(len(PROMPTS))
    assert (drawn.kl_states == drawn.latents[rows, drawn.kl_steps]).all()
    at_them = exact(policy, drawn)[rows, drawn.kl_steps] / kl_shares(policy.transitions)[drawn.kl_steps]
    np.testing.assert_allclose(drawn.kl, at_them, rtol=1e-3)
    plain = rollout(policy, replace(REQUEST, kl=False))[1]
    assert plain.kl is plain.kl_states is plain.kl_steps is None
    for name in ("latents", "next_latents", "log_probs"):  # and alters nothing else
        assert (getattr(plain, name) == getattr(drawn, name)).all()


def test_an_adapter_that_changes_nothing_has_none(policy: Policy) -> None:
    drawn = rollout(policy, REQUEST)[1]
    assert drawn.kl is not None
    assert not drawn.kl.any()


def test_where_the_adapter_acts_everywhere_all_steps_count(policy: Policy, nudge: Nudge) -> None:
    nudge(policy)
    policy.transitions = replace(policy.transitions, adapted=3)
    many = Request(0, 0, PROMPTS[:1] * 40, (0,) * 40, tuple(range(40)), kl=True)
    some, everywhere = (rollout(policy, replace(many, everywhere=flag))[1] for flag in (False, True))
    assert some.kl_steps is not None
    assert everywhere.kl_steps is not None
    assert some.kl_steps.max() == 2
    assert (everywhere.kl_steps >= 3).mean() > 0.5
    assert policy.transitions.adapted == 3


def test_chains_without_a_density_have_none(policy_config: PolicyConfig) -> None:
    for changes in ({"solver": "dpm_2m"}, {"solver": "sde_dpm_2m"}, {"eta": 0.0}):
        policy = Policy.load(policy_config.model_copy(update=changes))
        assert rollout(policy, replace(REQUEST, stored_steps=()))[1].kl is None


def test_a_window_of_steps_with_noise_is_the_chain_whose_kl_is_taken(policy: Policy) -> None:
    request = replace(REQUEST, noisy_steps=(1, 3), stored_steps=(1, 2))
    drawn = rollout(policy, request)[1]
    assert drawn.kl_steps is not None
    assert set(drawn.kl_steps.tolist()) <= {1, 2}
