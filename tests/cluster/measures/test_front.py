"""The Pareto front."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cluster.measures.front import front


def test_what_is_beaten_in_every_respect_is_left_out() -> None:
    points = np.array([[3, 1], [2, 2], [1, 3], [1, 2], [2, 2], [0, 0], [np.nan, 9], [np.inf, 9]])
    assert front(points).tolist() == [True, True, True, False, True, False, False, False]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_somebody_is_on_it_and_everybody_else_is_beaten_by_one_of_them(points: list[tuple[int, int, int]]) -> None:
    array = np.array(points, float)
    on = front(array)
    assert on.any()
    for point in array[~on]:
        assert any((other >= point).all() and (other > point).any() for other in array[on])
