"""A learner whose batches people chose between: samples without a choice make no update at all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from actors.config import PolicyConfig
from actors.policy import Policy
from learner.batch import Batch
from learner.learner import Learner, LearnerConfig
from learner.objectives.d3po import D3POConfig


def learner(policy: Policy, source: str) -> Learner:
    return Learner(LearnerConfig(lr=0.01), policy, D3POConfig().build(), source=source)  # type: ignore[arg-type]


def test_an_update_is_that_of_the_chosen_pairs_alone(policy_config: PolicyConfig, draw: Callable[..., Batch]) -> None:
    made = []
    for source in ("chosen", "drawn"):
        policy = Policy.load(policy_config)
        batch = draw(policy)
        batch = replace(batch, rewards=torch.tensor([1.0, 0.0, *[float("nan")] * 4]))
        ours = learner(policy, source)
        update = ours.step(batch if source == "chosen" else batch.take(torch.tensor([0, 1])))
        made.append((update.metrics, copy.deepcopy(policy.weights()[0])))
    (chosen, one), (alone, other) = made
    assert chosen["updates"] == chosen["pairs"] == 1
    assert np.array_equal(one, other)
    assert (chosen["images_drawn"], alone["images_drawn"]) == (6, 2)


def test_a_batch_that_nobody_chose_in_changes_nothing(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = replace(draw(policy), rewards=torch.full((6,), float("nan")))
    before = policy.weights()[0].copy()
    ours = learner(policy, "chosen")
    metrics = ours.step(batch).metrics
    assert (ours.version, metrics["updates"], metrics["images_drawn"]) == (1, 0, 6)
    assert np.array_equal(policy.weights()[0], before)
