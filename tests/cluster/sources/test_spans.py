"""Spans of work: unions and overlaps against counting on a grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sources.spans import Spans

spans = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 15)), max_size=8)


def on_grid(of_role: list[tuple[int, int]], since: int, until: int) -> np.ndarray:
    """Whether each unit of time in the window is covered."""
    units = np.arange(since, until)
    return np.any([(units >= start) & (units < start + length) for start, length in [*of_role, (0, 0)]], axis=0)


@given(spans, spans, st.integers(0, 30), st.integers(0, 30))
def test_busy_and_overlap_count_every_moment_once(
    samplers: list[tuple[int, int]], learner: list[tuple[int, int]], since: int, length: int
) -> None:
    known = Spans()
    for start, seconds in samplers:
        known.add("sampler", start, seconds)
    for start, seconds in learner:
        known.add("learner", start, seconds)
    a, b = (on_grid(of_role, since, since + length) for of_role in (samplers, learner))
    assert known.busy("sampler", since, since + length) == a.sum()
    assert known.overlap("sampler", "learner", since, since + length) == (a & b).sum()
    assert known.overlap("learner", "sampler", since, since + length) == (a & b).sum()


def test_a_role_that_never_worked_is_not_busy() -> None:
    known = Spans()
    known.add("learner", 1.0, 2.0)
    assert known.busy("sampler", 0.0, 10.0) == 0.0
    assert known.overlap("sampler", "learner", 0.0, 10.0) == 0.0
    assert known.busy("learner", 0.0, 2.5) == pytest.approx(1.5)
