"""The Bradley-Terry head: closed forms, whole groups in folds, and calibration by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit

from rewards.people.bradley_terry import (
    accuracy,
    calibration_error,
    choose_decay,
    connected,
    fit,
    folds,
    judge_held_out,
    log_loss,
    reliability,
)

RANDOM = np.random.default_rng(0)


def test_one_feature_without_decay_is_the_logit_of_the_share() -> None:
    labels = np.array([1.0, 1.0, 1.0, 0.0])
    (weight,) = fit(np.ones((4, 1)), labels, 0.0)
    assert weight == pytest.approx(math.log(3), abs=1e-4)
    tied = fit(np.ones((4, 1)), np.array([1.0, 0.5, 0.5, 1.0]), 0.0)  # ties are half
    assert tied == pytest.approx(math.log(3), abs=1e-4)


def test_at_the_optimum_the_slope_is_nothing_and_swapped_pairs_say_the_same() -> None:
    x, y = RANDOM.normal(size=(50, 4)), RANDOM.choice([0.0, 0.5, 1.0], 50)
    w = fit(x, y, 0.1)
    np.testing.assert_allclose(x.T @ (expit(x @ w) - y) / 50 + 0.1 * w, 0, atol=1e-4)
    np.testing.assert_allclose(fit(-x, 1 - y, 0.1), w, atol=1e-4)


def test_pairs_that_share_a_picture_hang_together() -> None:
    found = connected(np.array([[0, 1], [2, 3], [1, 4], [5, 6], [4, 0]]))
    assert found[0] == found[2] == found[4]
    assert len(set(found)) == 3


def test_folds_are_whole_groups_of_about_equal_size() -> None:
    groups = RANDOM.integers(30, size=200)
    fold = folds(groups, 0)
    assert all(len(set(fold[groups == group])) == 1 for group in range(30))
    sizes = np.bincount(fold)
    assert len(sizes) == 5
    assert sizes.min() > 30
    assert (folds(groups, 1) != fold).any()
    assert sorted(np.bincount(folds(np.zeros(10, int), 0))) == [2] * 5  # one group alone is taken apart


def test_a_known_taste_is_found_and_noise_is_not() -> None:
    x, w = RANDOM.normal(size=(400, 20)), np.zeros(20)
    w[:2] = 2.0, -2.0
    y = (RANDOM.random(400) < expit(x @ w)).astype(float)
    groups = np.arange(400)
    rate, low, high = accuracy(judge_held_out(x, y, groups, 0), y)
    assert 0.75 < low < rate < high
    noise = RANDOM.integers(2, size=400).astype(float)
    _, low, high = accuracy(judge_held_out(x, noise, groups, 0), noise)
    assert low < 0.5 < high
    assert choose_decay(x, noise, groups, 0) > choose_decay(x, y, groups, 0)


def test_accuracy_leaves_ties_out_and_wilson_holds_it() -> None:
    logits, labels = np.array([1.0, -1.0, 2.0, 1.0]), np.array([1.0, 0.0, 0.0, 0.5])
    rate, low, high = accuracy(logits, labels)
    assert rate == pytest.approx(2 / 3)
    z, n = 1.959964, 3
    centre, half = (rate + z**2 / (2 * n)), z * math.sqrt(rate * (1 - rate) / n + z**2 / (4 * n**2))
    expected = [(centre + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert [low, high] == pytest.approx(expected, abs=1e-6)


def test_calibration_by_hand() -> None:
    sure = np.log(np.array([0.55 / 0.45, 0.95 / 0.05, 0.05 / 0.95, 0.97 / 0.03]))
    bins = reliability(sure, np.array([0.0, 1.0, 0.0, 0.5]))
    assert [(round(own.low, 1), own.pairs, own.right) for own in bins] == [(0.5, 1, 0.0), (0.9, 3, 2.5 / 3)]
    expected = (0.55 + abs((0.95 + 0.95 + 0.97) - 2.5)) / 4
    assert calibration_error(bins) == pytest.approx(expected)
    assert log_loss(np.zeros(3), np.array([0.0, 0.5, 1.0])) == pytest.approx(math.log(2))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_who_cannot_tell_is_right_half_of_the_time(label: float) -> None:
    share, low, high = accuracy(np.zeros(20), np.full(20, label))
    assert share == 0.5
    assert low < 0.5 < high
    assert [found.right for found in reliability(np.zeros(20), np.full(20, label))] == [0.5]
