"""The learner actor, called as a plain object: rollouts in, weights and checkpoints out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from actors.config import PolicyConfig
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request, Trajectories
from learner.actor import LearnerActor
from learner.batch import collate
from learner.checkpoint import CheckpointError, newest
from learner.learner import Learner, LearnerConfig
from learner.objectives.ppod import PPODConfig

OPTIMIZER, OBJECTIVE = LearnerConfig(lr=1e-2, ema_decay=0.5), PPODConfig(steps_per_update=2)
REWARDS = np.array([0.3, -1.0, 2.0, 0.1, 0.7, np.nan], np.float32)


def trajectories(policy: Policy, version: int = 0) -> list[Trajectories]:
    """An on-policy iteration as the object store gives it: a request a prompt, arrays read-only."""
    parts = []
    for prompt, text in enumerate(("a red circle", "two blue squares")):
        request = Request(0, version, (text,) * 3, (prompt,) * 3, (0, 1, 2), (0, 1, 2))
        part = rollout(policy, request, version)[1]
        for array in (part.latents, part.next_latents, part.log_probs, part.steps, part.prompt_index):
            array.flags.writeable = False
        parts.append(part)
    return parts


def actor(config: PolicyConfig, seed: int = 3) -> LearnerActor:
    """An actor that has just started."""
    return LearnerActor(OPTIMIZER, config, OBJECTIVE, seed, iterations=4)


def test_an_update_is_the_learner_on_the_joined_rollouts(policy_config: PolicyConfig, policy: Policy) -> None:
    parts = trajectories(policy)
    update, weights = actor(policy_config).update(REWARDS, *parts)
    plain = Learner(OPTIMIZER, Policy.load(policy_config, 3), OBJECTIVE.build(), 3, iterations=4)
    assert update.metrics == plain.step(collate(parts, REWARDS)).metrics
    assert weights.checksum == plain.weights().checksum
    assert update.version == weights.version == 1
    assert not np.array_equal(weights.flat, actor(policy_config).weights().flat)


def test_samplers_and_learner_agree_at_every_version(policy_config: PolicyConfig, policy: Policy) -> None:
    """Ratio one across processes: the sampler has its own policy, and only the published weights."""
    learner = actor(policy_config)
    for version in range(3):
        update, weights = learner.update(REWARDS, *trajectories(policy, version))
        assert update.metrics["ratio/first"] < 1e-5
        policy.load_weights(weights.flat, weights.index)


def test_a_restored_actor_continues_bit_for_bit(policy_config: PolicyConfig, policy: Policy, tmp_path: Path) -> None:
    first = actor(policy_config)
    _, weights = first.update(REWARDS, *trajectories(policy))
    first.save(str(tmp_path), keep=0, extra={"cursor": 12})
    policy.load_weights(weights.flat, weights.index)
    parts = trajectories(policy, 1)
    expected = first.update(REWARDS, *parts)[1]

    second = actor(policy_config)
    assert second.restore(str(newest(tmp_path))) == (1, {"cursor": 12})
    assert second.weights().checksum == weights.checksum
    assert second.update(REWARDS, *parts)[1].checksum == expected.checksum
    assert second.weights(averaged=True).checksum == first.weights(averaged=True).checksum


def test_checkpoints_are_named_after_the_version_and_the_oldest_go(
    policy_config: PolicyConfig, policy: Policy, tmp_path: Path
) -> None:
    learner, parts = actor(policy_config), trajectories(policy)
    for _ in range(3):
        learner.update(REWARDS, *parts)
        learner.save(str(tmp_path), keep=2, extra={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration-000002", "iteration-000003"]


def test_a_damaged_checkpoint_does_not_touch_the_learner(
    policy_config: PolicyConfig, policy: Policy, tmp_path: Path
) -> None:
    learner = actor(policy_config)
    learner.update(REWARDS, *trajectories(policy))
    learner.save(str(tmp_path), keep=0, extra={})
    saved = newest(tmp_path)
    content = bytearray((saved / "learner.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (saved / "learner.pt").write_bytes(content)
    other = actor(policy_config)
    before = other.weights()
    with pytest.raises(CheckpointError, match=r"learner\.pt"):
        other.restore(str(saved))
    assert (other.weights().version, other.weights().checksum) == (0, before.checksum)
