"""A machine shared out: every actor finds a place on a GPU, in Ray's own arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fit import UNITS, Demand, Node, fit
from cluster.local import share_of_gpus


@given(st.integers(1, 8), st.integers(1, 40))
def test_every_actor_finds_a_place_and_none_could_have_more(gpus: int, workers: int) -> None:
    def places(share: float) -> bool:
        units = round(share * UNITS)
        return 0 < units <= UNITS and gpus * (UNITS // units) >= workers

    share = share_of_gpus(gpus, workers)
    assert places(share)
    assert share == 1 or not places(share + 1 / UNITS)
    fit([Demand(f"actor-{i}", {"GPU": share}) for i in range(workers)], [Node("here", {"GPU": float(gpus)})])


@pytest.mark.parametrize(
    ("gpus", "workers", "share"), [(0, 3, 0.0), (1, 3, 0.3333), (2, 3, 0.5), (3, 4, 0.5), (8, 3, 1)]
)
def test_shares(gpus: int, workers: int, share: float) -> None:
    assert share_of_gpus(gpus, workers) == share
