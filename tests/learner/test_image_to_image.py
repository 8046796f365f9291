"""Training on chains that begin within: the steps that they take, and no other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from learner.batch import collate
from learner.learner import Learner, LearnerConfig
from learner.likelihood import largest_log_ratio
from learner.objectives.ppod import PPODConfig


def test_ppod_trains_on_chains_that_begin_from_pictures(policy: Policy) -> None:
    policy.transitions = replace(policy.transitions, first_step=2)
    objective = PPODConfig(step_fraction=0.5, kl_weight=0.0).build()
    plan = objective.plan(policy.transitions)
    assert plan.stored_steps == (2, 3)  # half of those that are taken
    start = tuple(np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), np.uint8))
    request = Request(0, 0, ("a red circle",) * 2 + ("a star",) * 2, (0, 0, 1, 1), (0, 1, 0, 1), plan.stored_steps)
    _, trajectories = rollout(policy, replace(request, first_step=2, start=start))
    batch = collate([trajectories], np.array([1.0, 0.0, -1.0, 2.0], np.float32))
    assert largest_log_ratio(policy, batch, micro_batch=4) <= 1e-5
    learner = Learner(LearnerConfig(lr=1e-3, micro_batch=8), policy, objective)
    first, *_, last = [learner.step(batch).metrics for _ in range(3)]
    assert first["ratio/first"] <= 1e-5
    assert last["loss"] < first["loss"]
