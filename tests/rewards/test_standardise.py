"""What a reward is standardised by: the run, the group, the prompt's last scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.standardise import ByGroup, ByPrompt, ByRun

values = st.floats(-1000, 1000, width=32)
batches = st.lists(st.lists(values, min_size=1, max_size=8), min_size=1, max_size=6)
rows = st.lists(st.tuples(values, st.sampled_from("abc")), min_size=1, max_size=20)


def by_all(last: np.ndarray, history: np.ndarray) -> np.ndarray:
    """What a batch is worth against some history."""
    return (last - history.mean()) / (history.std() + 1e-6)


def split(history: np.ndarray, cuts: list[int]) -> list[np.ndarray]:
    """History as batches."""
    return [part for part in np.split(history, sorted({c for c in cuts if 0 < c < len(history)})) if len(part)]


@given(batches)
def test_each_batch_is_measured_by_the_whole_run(parts: list[list[float]]) -> None:
    run, seen = ByRun(), np.empty(0)
    for part in parts:
        last = np.array(part)
        seen = np.concatenate([seen, last])
        found = run.apply(last, [""] * len(last))
        if np.ptp(seen) > 1e-2:  # a constant history has no scale to compare on
            np.testing.assert_allclose(found, by_all(last, seen), rtol=1e-4, atol=1e-4)


@given(st.lists(values, min_size=2, max_size=40), st.lists(st.integers(1, 39), max_size=6))
def test_the_moments_do_not_depend_on_how_history_was_split(history: list[float], cuts: list[int]) -> None:
    data, run = np.array(history), ByRun()
    for part in split(data, cuts):
        run.apply(part, [""] * len(part))
    count, mean, deviations = run.state_dict()
    assert count == len(data)
    assert mean == pytest.approx(data.mean(), abs=1e-6)
    assert deviations / count == pytest.approx(data.var(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_large_offset_costs_no_precision(offset: float) -> None:
    data, run = np.random.default_rng(0).normal(size=1000), ByRun()
    for part in np.array_split(data + offset, 37):
        found = run.apply(part, [""] * len(part))
    np.testing.assert_allclose(found, by_all(part, data + offset), atol=1e-4)


@given(rows)
def test_a_group_has_mean_nought_and_deviation_one(batch: list[tuple[float, str]]) -> None:
    scores, prompts = np.array([score for score, _ in batch]), [prompt for _, prompt in batch]
    found = ByGroup().apply(scores, prompts)
    for prompt in set(prompts):
        own = np.array([p == prompt for p in prompts])
        assert found[own].mean() == pytest.approx(0, abs=1e-3)
        if np.ptp(scores[own]) > 1e-2:
            assert found[own].std() == pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(found[own], by_all(scores[own], scores[own]), rtol=1e-6, atol=1e-9)


def test_the_tracker_of_ddpo() -> None:
    """Two rounds by hand: b has one score in the first, so the batch serves; in the second both are known."""
    tracker = ByPrompt(buffer=4, min_count=2)
    first = tracker.apply(np.array([1.0, 3.0, 10.0]), ["a", "a", "b"])
    np.testing.assert_allclose(first, [-0.999999, 0.999999, 1.38218912], rtol=0, atol=1e-6)
    second = tracker.apply(np.array([5.0, 20.0]), ["a", "b"])
    np.testing.assert_allclose(second, [1.22474412, 0.9999998], rtol=0, atol=1e-6)


def test_the_tracker_forgets_what_is_older_than_its_buffer() -> None:
    tracker = ByPrompt(buffer=3, min_count=1)
    tracker.apply(np.array([1e6, -1e6, 7.0]), ["a"] * 3)
    found = tracker.apply(np.array([1.0, 2.0, 3.0]), ["a"] * 3)
    np.testing.assert_allclose(found, by_all(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])))
    assert tracker.state_dict() == {"a": [1.0, 2.0, 3.0]}


@given(rows)
def test_a_tracker_that_remembers_one_batch_is_the_group(batch: list[tuple[float, str]]) -> None:
    scores, prompts = np.array([score for score, _ in batch]), [prompt for _, prompt in batch]
    np.testing.assert_allclose(
        ByPrompt(buffer=20, min_count=1).apply(scores, prompts), ByGroup().apply(scores, prompts)
    )
