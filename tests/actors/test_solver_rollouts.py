"""Rollouts under every solver: records, chains that are entered late, and PPOD on each solver that it can train."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import chain, noise, rollout
from actors.trajectories import Request
from learner.batch import collate
from learner.learner import Learner, LearnerConfig
from learner.objectives.ppod import PPODConfig

SOLVERS = get_args(PolicyConfig.model_fields["solver"].annotation)
SECOND_ORDER = ("dpm_2m", "sde_dpm_2m")
SCORES = np.array([0.3, -1.0, 2.0, 0.1, 0.7, -0.4], np.float32)


def request_of(policy: Policy, first_step: int = 0) -> Request:
    """Two prompts, three samples each, with every step that has a density."""
    stored = tuple(step for step in policy.transitions.stochastic_steps if step >= first_step)
    start = np.full((6, 16, 16, 3), 128, np.uint8) if first_step else None
    return Request(
        0, 0, ("a red circle",) * 3 + ("two blue squares",) * 3, (0, 0, 0, 1, 1, 1), (0, 1, 2) * 2, stored,
        first_step=first_step, start=start,
    )  # fmt: skip


@pytest.mark.parametrize("window", [None, (1, 3)])
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name not in SECOND_ORDER])
def test_the_learner_finds_the_probabilities_of_every_solver_and_takes_a_step(
    solver: str, window: tuple[int, int] | None, policy_config: PolicyConfig
) -> None:
    policy = Policy.load(policy_config.model_copy(update={"solver": solver, "noisy_steps": window}))
    assert policy.transitions.stochastic_steps == ((0, 1, 2, 3, 4) if window is None else (1, 2))
    images, trajectories = rollout(policy, request_of(policy))
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6
    before = policy.weights()[0].copy()
    objective = PPODConfig(steps_per_update=None, step_fraction=1.0).build()
    metrics = Learner(LearnerConfig(lr=1e-3), policy, objective).step(collate([trajectories], SCORES)).metrics
    assert metrics["ratio/first"] <= 1e-5
    assert not np.array_equal(policy.weights()[0], before)


@pytest.mark.parametrize("solver", SECOND_ORDER)
def test_second_order_draws_pictures_and_is_not_trained_on(solver: str, policy_config: PolicyConfig) -> None:
    policy = Policy.load(policy_config.model_copy(update={"solver": solver}))
    images, trajectories = rollout(policy, request_of(policy))
    assert len(np.unique(images.reshape(6, -1), axis=0)) == 6
    assert trajectories.steps.tolist() == list(policy.transitions.stochastic_steps)
    with pytest.raises(ValueError, match=r"set policy\.solver to one of first order"):
        Learner(LearnerConfig(), policy, PPODConfig().build())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("first_step", [1, 3, 4])
def test_a_chain_that_is_entered_late_begins_with_what_is_predicted_there(
    solver: str, first_step: int, policy_config: PolicyConfig
) -> None:
    """A step of second order has nothing to look back at then: it is the one of first order, the next one is not."""
    policy = Policy.load(policy_config.model_copy(update={"solver": solver}))
    request = request_of(policy, first_step)
    assert rollout(policy, request)[0].shape == (6, 16, 16, 3)
    told, keys = policy.encode(request.prompts), request.keys
    x = noise(keys, 0, policy.latent_shape)
    with torch.no_grad():
        steps = list(chain(policy, x, told, keys, first_step))
    assert [step.number for step in steps] == list(range(first_step, 5))
    first_order = {"dpm_2m": ("ddim", 0.0), "sde_dpm_2m": ("ddpm", None)}.get(solver, (solver, None))
    update = {"solver": first_order[0], "eta": first_order[1]}
    with torch.no_grad():
        plain = list(chain(Policy.load(policy_config.model_copy(update=update)), x, told, keys, first_step))
    torch.testing.assert_close(steps[0].mean, plain[0].mean, rtol=1e-4, atol=1e-4)
    if len(steps) > 1:
        assert steps[1].mean.allclose(plain[1].mean, rtol=1e-4, atol=1e-4) == (solver not in SECOND_ORDER)
