"""Diversity within a prompt, and the Vendi score, in closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.measures.spread import mean_pairwise_distance, vendi


def test_corners_of_a_simplex_are_root_two_apart() -> None:
    assert mean_pairwise_distance(np.eye(5)) == pytest.approx(math.sqrt(2))


def test_points_on_a_line_wherever_it_lies() -> None:
    points = np.array([[0.0, 0.0], [3.0, 4.0], [9.0, 12.0]])  # distances 5, 10 and 15
    assert mean_pairwise_distance(points) == pytest.approx(10)
    assert mean_pairwise_distance(points + 100) == pytest.approx(10)
    assert mean_pairwise_distance(-2 * points) == pytest.approx(20)


def test_equal_images_have_no_diversity() -> None:
    assert mean_pairwise_distance(np.ones((4, 3))) == 0


def test_one_picture_has_no_diversity_that_is_known() -> None:
    assert math.isnan(mean_pairwise_distance(np.ones((1, 3))))
    assert math.isnan(vendi(np.ones((1, 3))))


@pytest.mark.parametrize("count", [2, 5])
def test_vendi_counts_pictures_that_have_nothing_in_common(count: int) -> None:
    assert vendi(np.eye(7)[:count]) == pytest.approx(count)
    assert vendi(np.repeat(np.eye(7)[:count], 3, axis=0)) == pytest.approx(count)
    assert vendi(np.ones((count, 7))) == pytest.approx(1)


def test_vendi_of_two_pictures_follows_their_cosine() -> None:
    cosine = 0.6  # eigenvalues of K / 2 are .8 and .2
    found = vendi(np.array([[1.0, 0.0], [3 * cosine, 3 * math.sqrt(1 - cosine**2)]]))
    assert found == pytest.approx(math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.2)))


@given(st.integers(2, 9), st.integers(1, 5), st.integers(0, 99))
def test_vendi_is_from_one_to_the_number_of_pictures(count: int, width: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(count, width))
    found = vendi(features)
    assert 1 - 1e-9 <= found <= min(count, width) + 1e-9
    assert vendi(features[::-1] * 7) == pytest.approx(found)


def test_a_picture_without_features_has_no_direction() -> None:
    assert math.isnan(vendi(np.array([[0.0, 0.0], [1.0, 0.0]])))
