"""What a run is told of watched rewards that give no score, without any actor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from actors.trajectories import Request
from cluster.config import Config, RewardConfig
from cluster.sources.first_pictures import check_rewards
from cluster.sources.rollouts import Rollout


class Judged:
    """Rollouts that `own` has judged, and of which `seeing` has said nothing but features."""

    def submit(
        self, key: Any, request: Request, version: int, features: str | None = None, strict: bool = True
    ) -> None:
        self._request, self._asked = request, features

    def take(self, key: Any) -> Rollout:
        size = len(self._request.prompts)
        scores = {"own": np.ones(size, np.float32), "seeing": np.full(size, np.nan, np.float32)}
        features = np.ones((size, 2), np.float32) if self._asked else None
        nothing: Any = None
        return Rollout(self._request, 0, 0.0, 1.0, nothing, nothing, scores, features)


@pytest.mark.parametrize("features", ["seeing", None])
@pytest.mark.parametrize(("kind", "warnings"), [("dino", []), ("shapes_reading", ["judged none of the first"])])
def test_what_has_features_alone_costs_no_warning_and_a_score_that_is_missing_does(
    kind: str,
    warnings: list[str],
    features: str | None,
    make_config: Callable[..., Config],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rewards = {"own": RewardConfig(kind="brightness"), "seeing": RewardConfig(kind=kind, weight=0.0)}
    config = make_config()
    evaluation = config.evaluation.model_copy(update={"features": features})
    config = config.model_copy(update={"rewards": rewards, "evaluation": evaluation})
    rollouts: Any = Judged()
    check_rewards(config, rollouts, {})
    assert len(caplog.records) == len(warnings)
    assert all(words in record.getMessage() for words, record in zip(warnings, caplog.records, strict=True))
