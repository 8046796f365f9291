"""Learning with all weights of the denoiser: ratios, references and continuing are as with adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from actors.config import PolicyConfig
from actors.policy import Policy
from learner.batch import Batch
from learner.learner import Learner, LearnerConfig
from learner.objectives.ppod import PPODConfig
from learner.ranks import ALONE
from tests.learner.rank_process import Start, gradients

Draw = Callable[..., Batch]


@pytest.fixture
def full_config(tiny_pipeline: Path) -> PolicyConfig:
    return PolicyConfig(model=str(tiny_pipeline), device="cpu", steps=5, guidance=2.0, train="full")


def learner(policy: Policy) -> Learner:
    """With a snapshot as the reference, a KL to the pretrained network, and an average."""
    objective = PPODConfig(steps_per_update=None, round_length=2, kl_weight=0.1).build()
    return Learner(LearnerConfig(lr=1e-3, ema_decay=0.5), policy, objective)


def test_it_learns_from_ratio_one_on_and_leaves_the_pretrained_network(full_config: PolicyConfig, draw: Draw) -> None:
    policy, untouched = Policy.load(full_config), Policy.load(full_config)
    batch = draw(policy)
    x, step = batch.latents[:, 0], batch.steps[0].repeat(6)

    def pretrained(policy: Policy) -> torch.Tensor:
        with torch.no_grad(), policy.using(None):
            return policy.predict(x, step, policy.encode(batch.prompts))

    trained = learner(policy)
    updates = [trained.step(batch).metrics for _ in range(3)]
    assert updates[0]["ratio/first"] < 1e-5
    assert updates[0]["kl/pretrained"] == pytest.approx(0, abs=1e-9)
    assert updates[-1]["kl/pretrained"] > 1e-6
    assert updates[1]["margin/mean"] > updates[0]["margin/mean"]  # the snapshot is taken anew after it
    assert torch.equal(pretrained(policy), pretrained(untouched))
    moved = policy.weights()[0] != untouched.weights()[0]
    assert moved.mean() > 0.99


def test_a_restored_one_continues_bit_for_bit(full_config: PolicyConfig, draw: Draw, tmp_path: Path) -> None:
    policy, other = Policy.load(full_config), Policy.load(full_config)
    straight, again = learner(policy), learner(other)
    straight.step(draw(policy))
    straight.save(tmp_path)
    batch = draw(policy, version=1, iteration=1)
    again.restore(tmp_path)
    assert np.array_equal(again.weights("averaged").flat, straight.weights("averaged").flat)
    for each in (straight, again):
        each.step(batch)
    assert again.weights().checksum == straight.weights().checksum
    assert again.weights("averaged").checksum == straight.weights("averaged").checksum


@pytest.mark.parametrize("case", ["residual_nabla_db", "ppod, snapshot"])
def test_checkpointing_changes_no_gradient(full_config: PolicyConfig, case: str) -> None:
    """Also where another copy acted in between, and through the decoder."""
    settings = full_config.model_dump() | {"eta": 1.0}
    plain, again = (gradients(Start(PolicyConfig(**settings | {"checkpointing": on})), case, ALONE, "parts")
                    for on in (False, True))  # fmt: skip
    assert plain["policy"].abs().max() > 0
    assert torch.equal(plain["policy"], again["policy"])
