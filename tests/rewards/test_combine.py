"""Combination of rewards: running moments over all history, shares by weight, bad samples kept out."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.combine import Combiner

values = st.floats(-1000, 1000, width=32)
batches = st.lists(st.lists(values, min_size=1, max_size=8), min_size=1, max_size=6)


def normalised(last: np.ndarray, history: np.ndarray) -> np.ndarray:
    """What a batch is worth against everything seen so far."""
    return (last - history.mean()) / (history.std() + 1e-6)


def split(history: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    """History as batches."""
    return [part for part in np.split(history, sorted({c for c in cuts if 0 < c < len(history)})) if len(part)]


@given(batches)
@settings(deadline=None, max_examples=50)
def test_each_batch_is_normalised_by_the_whole_history(parts: list[list[float]]) -> None:
    combiner, seen = Combiner({"a": 1.0}), np.empty(0)
    for part in parts:
        last = np.array(part)
        seen = np.concatenate([seen, last])
        combined = combiner.combine({"a": last})
        if np.ptp(seen) > 1e-2:  # a constant history has no scale to compare on
            np.testing.assert_allclose(combined, normalised(last, seen), rtol=1e-4, atol=1e-4)


@given(st.lists(values, min_size=2, max_size=40), st.lists(st.integers(1, 39), max_size=6))
@settings(deadline=None, max_examples=50)
def test_the_moments_do_not_depend_on_how_history_was_split(history: list[float], cuts: list[int]) -> None:
    data = np.array(history)
    combiner = Combiner({"a": 2.0})
    for part in split(data, cuts):
        combiner.combine({"a": part})
    count, mean, deviations = combiner.state_dict()["a"]
    assert count == len(data)
    assert mean == pytest.approx(data.mean(), abs=1e-6)
    assert deviations / count == pytest.approx(data.var(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_large_offset_costs_no_precision(offset: float) -> None:
    data = np.random.default_rng(0).normal(size=1000)
    combiner = Combiner({"a": 1.0})
    for part in np.array_split(data + offset, 37):
        combined = combiner.combine({"a": part})
    np.testing.assert_allclose(combined, normalised(part, data + offset), atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_sample_that_cannot_be_judged_gets_nan_and_stays_out_of_the_moments(bad: float, normalise: bool) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6)).astype(np.float32)
    spoilt = a.copy()
    spoilt[2] = bad
    combiner, clean = Combiner({"a": 1.0, "b": 1.0}, normalise), Combiner({"a": 1.0}, normalise)
    combined = combiner.combine({"a": spoilt, "b": b})
    assert np.isnan(combined).tolist() == [False, False, True, False, False, False]
    clean.combine({"a": np.delete(a, 2)})
    assert combiner.state_dict()["a"] == clean.state_dict()["a"]


def test_a_batch_without_one_good_sample_is_all_nan_and_forgotten() -> None:
    combiner = Combiner({"a": 1.0})
    combiner.combine({"a": np.array([1.0, 3.0])})
    before = combiner.state_dict()
    assert np.isnan(combiner.combine({"a": np.array([np.nan, np.inf])})).all()
    assert combiner.state_dict() == before


def test_rewards_of_weight_zero_do_not_count() -> None:
    a = np.array([1.0, 2.0, 4.0])
    watched = np.array([np.nan, 1e9, -5.0])
    both = Combiner({"a": 1.0, "watched": 0.0}).combine({"a": a, "watched": watched})
    np.testing.assert_array_equal(both, Combiner({"a": 1.0}).combine({"a": a}))


def test_scores_without_a_weight_are_ignored() -> None:
    a = np.array([1.0, 2.0, 4.0])
    both = Combiner({"a": 1.0}).combine({"other": np.array([9.0, 0.0, 3.0]), "a": a})
    np.testing.assert_array_equal(both, Combiner({"a": 1.0}).combine({"a": a}))


def test_without_normalisation_it_is_the_weighted_sum() -> None:
    combined = Combiner({"a": 2.0, "b": -0.5}, normalise=False).combine(
        {"a": np.array([1.0, 2.0]), "b": np.array([10.0, -4.0])}
    )
    assert combined.dtype == np.float32
    np.testing.assert_allclose(combined, [-3.0, 6.0])


def test_normalisation_makes_a_weight_a_share_whatever_the_scales() -> None:
    """Of two uncorrelated rewards with weights 3 and 1, the first has nine tenths of the variance."""
    a, b = np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, -1.0, 1.0, -1.0])
    combined = Combiner({"a": 3.0, "b": 1.0}).combine({"a": 1e-2 * a + 7.0, "b": 1e4 * b - 3.0})
    np.testing.assert_allclose(combined, 3 * a + b, rtol=1e-3)


@given(st.lists(st.lists(values, min_size=2, max_size=8), min_size=1, max_size=4), st.floats(0.1, 10))
@settings(deadline=None, max_examples=50)
def test_a_single_reward_is_never_reordered(parts: list[list[float]], weight: float) -> None:
    combiner = Combiner({"a": weight})
    for part in parts:
        combined = combiner.combine({"a": np.array(part)})
        assert (np.diff(combined[np.argsort(part, kind="stable")]) >= 0).all()


def test_a_negative_weight_turns_the_order_round() -> None:
    combined = Combiner({"a": -1.0}).combine({"a": np.array([1.0, 5.0, 2.0])})
    assert combined.argsort().tolist() == [1, 2, 0]


@given(batches, batches)
@settings(deadline=None, max_examples=50)
def test_a_restored_combiner_continues_as_if_nothing_had_happened(
    before: list[list[float]], after: list[list[float]]
) -> None:
    original, restored = Combiner({"a": 1.0, "b": 0.5}), Combiner({"a": 1.0, "b": 0.5})
    for part in before:
        original.combine({"a": np.array(part), "b": np.array(part) ** 2})
    restored.load_state_dict(json.loads(json.dumps(original.state_dict())))
    for part in after:
        scores = {"a": np.array(part), "b": np.array(part) ** 2}
        np.testing.assert_array_equal(restored.combine(scores), original.combine(scores))
    assert restored.state_dict() == original.state_dict()
