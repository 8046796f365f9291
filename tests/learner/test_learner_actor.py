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
from learner.advantages import Advantages
from learner.batch import collate
from learner.checkpoint import CheckpointError, newest
from learner.learner import Learner, LearnerConfig
from learner.objectives.ppod import PPODConfig

OPTIMIZER, OBJECTIVE = LearnerConfig(lr=1e-2, ema_decay=0.5), PPODConfig(steps_per_update=2)
SCORES = {
    "own": np.array([0.3, -1.0, 2.0, 0.1, 0.7, np.nan], np.float32),
    "watched": np.array([5.0, np.nan, 1.0, 2.0, 3.0, 4.0], np.float32),
}
GROUPS, PROMPTS = np.array([0, 0, 0, 1, 1, 1]), ["a red circle"] * 3 + ["two blue squares"] * 3


def advantages() -> Advantages:
    """With statistics over the run."""
    return Advantages({"own": 2.0, "watched": 0.0}, "run")


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
    return LearnerActor(OPTIMIZER, config, OBJECTIVE, seed, 4, advantages())


def test_prompts_are_held_to_the_model_that_was_loaded(policy_config: PolicyConfig) -> None:
    started = actor(policy_config)
    started.check_prompts(["a red circle"] * 3)
    with pytest.raises(ValueError, match=r"and 1 more of 3 do not fit .* set policy\.prompt_windows=3, or shorten"):
        started.check_prompts(["a red circle", "a red circle " * 12, "two blue squares " * 14])


def test_an_update_is_the_learner_on_the_joined_rollouts(policy_config: PolicyConfig, policy: Policy) -> None:
    parts = trajectories(policy)
    update, weights = actor(policy_config).update(SCORES, *parts)
    plain = Learner(OPTIMIZER, Policy.load(policy_config, 3), OBJECTIVE.build(), 3, iterations=4)
    rewards, metrics = advantages().of(SCORES, GROUPS, PROMPTS)
    assert update.metrics == metrics | plain.step(collate(parts, rewards)).metrics
    assert np.isnan(rewards).tolist() == [False] * 5 + [True]
    assert weights.checksum == plain.weights().checksum
    assert update.version == weights.version == 1
    assert not np.array_equal(weights.flat, actor(policy_config).weights().flat)


def test_samplers_and_learner_agree_at_every_version(policy_config: PolicyConfig, policy: Policy) -> None:
    """Ratio one across processes: the sampler has its own policy, and only the published weights."""
    learner = actor(policy_config)
    for version in range(3):
        update, weights = learner.update(SCORES, *trajectories(policy, version))
        assert update.metrics["ratio/first"] < 1e-5
        policy.load_weights(weights.flat, weights.index)


def test_a_restored_actor_continues_bit_for_bit(policy_config: PolicyConfig, policy: Policy, tmp_path: Path) -> None:
    first = actor(policy_config)
    _, weights = first.update(SCORES, *trajectories(policy))
    first.save(str(tmp_path), keep=0)
    policy.load_weights(weights.flat, weights.index)
    parts = trajectories(policy, 1)
    other = {name: 3 * scores + 1 for name, scores in SCORES.items()}
    told, expected = first.update(other, *parts)

    second = actor(policy_config)
    assert second.restore(str(newest(tmp_path))) == 1
    assert second.weights().checksum == weights.checksum
    again, found = second.update(other, *parts)
    assert again.metrics == told.metrics  # the rewards' statistics among them
    assert found.checksum == expected.checksum
    assert second.weights("averaged").checksum == first.weights("averaged").checksum
    assert second.weights("initial").checksum == actor(policy_config).weights().checksum


def test_checkpoints_are_named_after_the_version_and_the_oldest_go(
    policy_config: PolicyConfig, policy: Policy, tmp_path: Path
) -> None:
    learner, parts = actor(policy_config), trajectories(policy)
    for _ in range(3):
        learner.update(SCORES, *parts)
        learner.save(str(tmp_path), keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["iteration-000002", "iteration-000003"]


def test_a_damaged_checkpoint_does_not_touch_the_learner(
    policy_config: PolicyConfig, policy: Policy, tmp_path: Path
) -> None:
    learner = actor(policy_config)
    learner.update(SCORES, *trajectories(policy))
    learner.save(str(tmp_path), keep=0)
    saved = newest(tmp_path)
    content = bytearray((saved / "learner.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (saved / "learner.pt").write_bytes(content)
    other = actor(policy_config)
    before = other.weights()
    with pytest.raises(CheckpointError, match=r"learner\.pt"):
        other.restore(str(saved))
    assert (other.weights().version, other.weights().checksum) == (0, before.checksum)


def test_the_objective_sees_what_each_reward_said(policy_config: PolicyConfig, policy: Policy) -> None:
    learner, seen = actor(policy_config), []
    begin = learner._objective.begin
    learner._objective.begin = lambda policy, batch, version: seen.append(batch) or begin(policy, batch, version)  # type: ignore[method-assign]
    learner.update(SCORES, *trajectories(policy))
    assert seen[0].scores.keys() == SCORES.keys()
    for name, scores in SCORES.items():
        np.testing.assert_array_equal(seen[0].scores[name], scores)
