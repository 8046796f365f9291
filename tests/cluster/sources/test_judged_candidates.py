"""What a rollout says of its candidates when a reward that should judge them could not be asked; no actors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ray.exceptions import RayTaskError

from actors.trajectories import Request
from cluster.sources.rollouts import Rollouts, _Job
from rewards.reward import Scores

NOBODY: Any = None
RECEIPT = {"version": 0, "started": 1.0, "seconds": 2.0}


@pytest.mark.parametrize("candidates", [1, 3])
def test_a_judge_that_could_not_be_asked_leaves_nan(candidates: int) -> None:
    rollouts = Rollouts(NOBODY, {("good", "watched"): NOBODY, ("bad",): NOBODY}, ("good", "bad"))
    request = Request(0, 0, ("a", "b"), (0, 0), (0, 1), stored_steps=(1, 2, 4), candidates=candidates)
    judged = {"good": np.ones((2, 3, 3), np.float32)} if candidates > 1 else {}
    scores = Scores(("good", "watched"), np.ones((2, 2), np.float32), candidates=judged)
    scored: Any = {("good", "watched"): scores, ("bad",): RayTaskError("score", "", ValueError("no"))}
    rollouts._finish(_Job("key", request, 0, sampled=(NOBODY,) * 3, receipt=RECEIPT, scored=scored))
    found = rollouts.take("key")
    assert found is not None
    assert np.isnan(found.scores["bad"]).all()
    if candidates == 1:
        assert not found.candidates
        return
    assert found.candidates.keys() == {"good", "bad"}
    assert np.array_equal(found.candidates["good"], judged["good"])
    assert found.candidates["bad"].shape == (2, 3, 3)
    assert np.isnan(found.candidates["bad"]).all()
