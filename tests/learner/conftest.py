"""What the tests of the learner share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from learner.batch import Batch, collate

REWARDS = np.array([0.3, -1.0, 2.0, 0.1, 0.7, -0.4], np.float32)


@pytest.fixture
def draw() -> Callable[..., Batch]:
    """Samples an on-policy batch: two prompts, three samples each; four of the five steps, unless said otherwise."""

    def sample(policy: Policy, version: int = 0, iteration: int = 0, steps: tuple[int, ...] = (0, 1, 2, 3)) -> Batch:
        request = Request(
            seed=0, iteration=iteration, prompts=("a red circle",) * 3 + ("two blue squares",) * 3,
            prompt_index=(0, 0, 0, 1, 1, 1), sample_index=(0, 1, 2) * 2, stored_steps=steps,
        )  # fmt: skip
        return collate([rollout(policy, request, version)[1]], REWARDS)

    return sample
