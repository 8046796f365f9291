"""Supervised fine-tuning: which pictures, the mean of what, and that it is rejection sampling by another name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from actors.policy import Policy
from learner.batch import Batch
from learner.learner import Learner, LearnerConfig
from learner.objectives.rwr import RWRConfig
from learner.objectives.sft import SFTConfig, chosen_pictures

NAN = torch.nan


def test_who_is_trained_on() -> None:
    rewards, groups = torch.tensor([0.3, 2.0, NAN, 0.5, 0.5, 7.0, 6.9]), torch.tensor([0, 0, 0, 1, 1, 2, 2])
    assert chosen_pictures(rewards, groups, SFTConfig()).tolist() == [1, 5]  # of a tie nobody
    assert chosen_pictures(rewards, groups, SFTConfig(min_gap=0.2)).tolist() == [1]
    desirable = SFTConfig(pictures="desirable", threshold=0.4)
    assert chosen_pictures(rewards, groups, desirable).tolist() == [1, 3, 4, 5, 6]


def test_it_is_reward_weighted_regression_on_the_best_of_each_prompt(
    policy: Policy, draw: Callable[..., Batch], nudge: Callable[[Policy], None]
) -> None:
    """With as many samples of each, and no prompt left out."""
    nudge(policy)
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape))
    found, gradients = {}, {}
    for config in (
        SFTConfig(states=5, timesteps="chain", prompt_dropout=0.0),
        RWRConfig(states=5, weights="best", best=1 / 3, among="group", updates=1),
    ):
        objective = config.build()
        objective.attach(policy, None)
        (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
        found[config.name] = objective.backward(policy, batch, part, micro_batch=4)
        gradients[config.name] = torch.cat([p.grad.flatten() for p in policy.parameters])  # type: ignore[union-attr]
        for parameter in policy.parameters:
            parameter.grad = None
    assert found["sft"]["samples/chosen"] == 2
    assert found["sft"]["loss"] == pytest.approx(found["rwr"]["loss"], rel=1e-5)
    torch.testing.assert_close(gradients["sft"], gradients["rwr"], rtol=1e-3, atol=1e-6)
    assert gradients["sft"].abs().max() > 1e-4


def test_rwr_too_may_noise_to_all_timesteps(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape))
    objective = RWRConfig(timesteps="training", updates=1, states=1000).build()
    objective.attach(policy, None)
    (part,) = objective.parts(batch, torch.Generator().manual_seed(0))
    assert part.columns[0].sort().values.tolist() == list(range(1000))
    few = replace(part, columns=part.columns[:, :2])
    assert objective.backward(policy, batch, few, micro_batch=8)["loss"] > 0


def test_a_batch_without_a_better_picture_changes_nothing(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = replace(draw(policy), clean=torch.randn(6, *policy.latent_shape), rewards=torch.ones(6))
    before = policy.weights()[0].copy()
    metrics = Learner(LearnerConfig(), policy, SFTConfig().build()).step(batch).metrics
    assert (metrics["samples/chosen"], metrics["grad_norm"]) == (0, 0)
    assert "loss" not in metrics
    assert policy.weights()[0].tolist() == before.tolist()


def test_what_would_do_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="threshold does nothing without pictures=desirable"):
        SFTConfig(threshold=0.5)
    with pytest.raises(ValidationError, match="min_gap does nothing without pictures=preferred"):
        SFTConfig(pictures="desirable", min_gap=0.5)
    assert SFTConfig().asks.groups
    assert not SFTConfig(pictures="desirable").asks.groups
