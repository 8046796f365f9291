"""Means over prompts with their errors and intervals, and shares of wins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cluster.measures.estimate import by_prompt, each_prompt, over_prompts, share_by_prompt, wins


def test_every_prompt_counts_the_same_and_the_error_is_that_of_the_prompts() -> None:
    found = by_prompt(np.array([1.0, 3.0, 8.0, np.nan, 5.0]), np.array([0, 0, 1, 1, 2]))  # means 2, 8 and 5
    assert found.value == 5
    assert found.error == pytest.approx(math.sqrt(9) / math.sqrt(3))
    assert (found.low, found.high) == pytest.approx(
        (5 - 4.302653 * 3**0.5, 5 + 4.302653 * 3**0.5)
    )  # t table, 2 degrees


def test_more_pictures_of_the_same_prompts_do_not_narrow_the_interval() -> None:
    values, groups = np.array([0.1, 0.4, 0.9, 0.3]), np.arange(4)
    assert by_prompt(np.repeat(values, 50), np.repeat(groups, 50)) == pytest.approx(by_prompt(values, groups))


def test_of_one_prompt_nobody_knows_the_error() -> None:
    found = by_prompt(np.array([1.0, 2.0]), np.array([3, 3]))
    assert found.value == 1.5
    assert all(map(math.isnan, found[1:]))
    assert all(map(math.isnan, by_prompt(np.array([np.nan]), np.array([0]))))


@pytest.mark.parametrize("prompts", [3, 5, 40])
def test_the_interval_holds_the_mean_as_often_as_it_says(prompts: int) -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(1000):
        means = rng.normal(0.5, 1, prompts)  # the prompt's own mean moves far more than its pictures
        values = (means[:, None] + rng.normal(0, 0.1, (prompts, 4))).ravel()
        found = by_prompt(values, np.repeat(np.arange(prompts), 4))
        held.append(found.low <= 0.5 <= found.high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("prompts", [2, 3, 8])
def test_prompts_that_agree_leave_a_share_uncertain(prompts: int) -> None:
    groups = np.repeat(np.arange(prompts), 2)
    for won in (0, prompts):
        found = share_by_prompt(np.full(len(groups), won / prompts), groups)
        wilson = binomtest(won, prompts).proportion_ci(method="wilson")
        assert found == pytest.approx((won / prompts, 0, wilson.low, wilson.high), abs=1e-12)
    ties = share_by_prompt(np.full(len(groups), 0.5), groups)
    assert 0 < ties.low < 0.3
    assert ties.low + ties.high == pytest.approx(1)


def test_a_share_stays_between_nothing_and_all() -> None:
    values, groups = np.array([1.0, 1.0, 0.5, np.nan]), np.arange(4)
    found, plain = share_by_prompt(values, groups), by_prompt(values, groups)
    assert found == plain._replace(high=1.0)
    assert plain.high > 1
    assert all(map(math.isnan, share_by_prompt(values[:1], groups[:1])[1:]))


def test_an_interval_is_the_same_every_time() -> None:
    means = list(np.random.default_rng(1).normal(size=12))
    assert over_prompts(means) == over_prompts(means)


def test_a_measure_is_taken_of_each_prompts_finite_rows() -> None:
    rows = np.array([[1.0], [2.0], [np.nan], [10.0]])
    found = each_prompt(lambda part: float(len(part)), rows, np.array([0, 0, 1, 1]))
    assert found.value == 1.5


def test_wins_ties_and_losses() -> None:
    scores, base = np.array([2.0, 1.0, 0.0, np.nan, 1.0]), np.array([1.0, 1.0, 1.0, 1.0, np.inf])
    np.testing.assert_array_equal(wins(scores, base), [1, 0.5, 0, np.nan, np.nan])


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.integers(0, 99))
def test_one_side_wins_what_the_other_loses(scores: list[float], seed: int) -> None:
    mine, theirs = np.array(scores), np.random.default_rng(seed).permutation(scores)
    groups = np.arange(len(scores)) % 3
    there = by_prompt(wins(mine, theirs), groups).value
    assert there + by_prompt(wins(theirs, mine), groups).value == pytest.approx(1)
    assert by_prompt(wins(mine, mine), groups).value == 0.5
