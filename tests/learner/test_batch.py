"""Joining rollouts into a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from actors.trajectories import Trajectories
from learner.batch import collate


def rollout(first: int, samples: int, version: int = 0) -> Trajectories:
    """Samples numbered from `first`; every array holds the numbers."""
    numbers = np.arange(first, first + samples)
    latents = np.broadcast_to(numbers[:, None, None, None, None], (samples, 2, 4, 1, 1)).astype(np.float32)
    return Trajectories(
        latents=latents, next_latents=latents + 0.5, log_probs=latents[:, :, 0, 0, 0] / 10, steps=np.array([0, 2]),
        prompts=tuple(f"prompt {n}" for n in numbers), prompt_index=numbers // 2, version=version,
        keys=np.stack([numbers] * 5, axis=1).astype(np.uint64), clean=latents[:, 1] + 0.5,
    )  # fmt: skip


def test_samples_keep_their_order_and_their_rewards() -> None:
    batch = collate([rollout(3, 3, version=6), rollout(0, 2, version=5)], np.array([30, 40, 50, 0, 10], np.float32))
    assert batch.latents[:, 1, 0, 0, 0].tolist() == [3, 4, 5, 0, 1]
    assert batch.next_latents[:, 0, 0, 0, 0].tolist() == [3.5, 4.5, 5.5, 0.5, 1.5]
    assert batch.log_probs[:, 0].tolist() == pytest.approx([0.3, 0.4, 0.5, 0, 0.1])
    assert batch.prompts == ("prompt 3", "prompt 4", "prompt 5", "prompt 0", "prompt 1")
    assert batch.groups.tolist() == [1, 2, 2, 0, 0]
    assert batch.rewards.tolist() == [30, 40, 50, 0, 10]
    assert batch.steps.tolist() == [0, 2]
    assert batch.version == 5  # of the oldest weights
    assert batch.keys is not None
    assert batch.keys[:, 0].tolist() == [3, 4, 5, 0, 1]
    assert batch.clean is not None
    assert batch.clean[:, 0, 0, 0].tolist() == [3.5, 4.5, 5.5, 0.5, 1.5]


def test_the_batch_is_a_copy_of_read_only_arrays() -> None:
    source, rewards = rollout(1, 2), np.ones(2, np.float32)
    for array in (source.latents, source.log_probs, source.steps, rewards):
        array.flags.writeable = False
    batch = collate([source], rewards)
    for tensor in (batch.latents, batch.log_probs, batch.steps, batch.rewards):
        tensor.zero_()
    assert source.latents.min() == 1
    assert source.steps.tolist() == [0, 2]
    assert rewards.tolist() == [1, 1]


def test_rollouts_of_different_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="same sampler steps"):
        collate([rollout(0, 2), replace(rollout(2, 2), steps=np.array([0, 1]))], np.zeros(4, np.float32))


def test_a_missing_reward_is_refused() -> None:
    with pytest.raises(ValueError, match="4 samples and 3 rewards"):
        collate([rollout(0, 4)], np.zeros(3, np.float32))


@pytest.mark.parametrize("field", ["latents", "next_latents", "log_probs", "clean"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_sample_with_a_number_that_is_not_finite_is_left_out(field: str, value: float) -> None:
    source = rollout(0, 4)
    damaged = getattr(source, field).copy()
    damaged[1].flat[0] = value
    batch = collate([replace(source, **{field: damaged}), rollout(4, 2)], np.arange(6, dtype=np.float32))
    assert batch.rewards.tolist() == [0, 2, 3, 4, 5]
    assert batch.prompts == ("prompt 0", "prompt 2", "prompt 3", "prompt 4", "prompt 5")
    assert batch.groups.tolist() == [0, 1, 1, 2, 2]
    assert batch.latents[:, 0, 0, 0, 0].tolist() == [0, 2, 3, 4, 5]
    assert batch.keys is not None
    assert batch.keys[:, 0].tolist() == [0, 2, 3, 4, 5]
    assert all(tensor.isfinite().all() for tensor in (batch.latents, batch.next_latents, batch.log_probs))
