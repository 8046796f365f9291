"""Reward against diversity: what a method has spent is counted alike for all."""

from __future__ import annotations

import pytest

from benchmarks.pareto import queries_per_image
from cluster.config import load_config


@pytest.mark.parametrize(
    ("overrides", "queries"),
    [
        (["objective.name=ppod"], 1),
        # The image; then the last transition and one stratum of the eleven others, at both ends or at one.
        (["objective.name=residual_nabla_db"], 1 + 2 * 2),
        (["objective.name=residual_nabla_db", "objective.no_flow=true"], 1 + 2),
        (["objective.name=nabla_db", "objective.reverse_weight=0"], 1 + 2),
        (["objective.name=nabla_db", "objective.step_fraction=1"], 1 + 2 * 12),
    ],
)
def test_queries_are_counted_per_image(overrides: list[str], queries: int) -> None:
    assert queries_per_image(load_config(None, [*overrides, "policy.steps=12"])) == queries
