"""What a reward is standardised by: the run, the group, the prompt's last scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.standardise import ByBatch, ByGroup, ByPrompt, ByRun, Standardiser

values = st.floats(-1000, 1000, width=32)
batches = st.lists(st.lists(values, min_size=1, max_size=8), min_size=1, max_size=6)
rows = st.lists(st.tuples(values, st.sampled_from("abc")), min_size=1, max_size=20)


def apply(by: Standardiser, scores: np.ndarray, prompts: str | list[str] = "") -> np.ndarray:
    """Standardised scores, where every prompt is one group."""
    texts = [*prompts] if prompts else [""] * len(scores)
    return by.apply(scores, np.unique(texts, return_inverse=True)[1], texts)


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
        found = apply(run, last)
        if np.ptp(seen) > 1e-2:  # a constant history has no scale to compare on
            np.testing.assert_allclose(found, by_all(last, seen), rtol=1e-4, atol=1e-4)


@given(st.lists(values, min_size=2, max_size=40), st.lists(st.integers(1, 39), max_size=6))
def test_the_moments_do_not_depend_on_how_history_was_split(history: list[float], cuts: list[int]) -> None:
    data, run = np.array(history), ByRun()
    for part in split(data, cuts):
        apply(run, part)
    count, mean, deviations = run.state_dict()
    assert count == len(data)
    assert mean == pytest.approx(data.mean(), abs=1e-6)
    assert deviations / count == pytest.approx(data.var(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_a_large_offset_costs_no_precision(offset: float) -> None:
    data, run = np.random.default_rng(0).normal(size=1000), ByRun()
    for part in np.array_split(data + offset, 37):
        found = apply(run, part)
    np.testing.assert_allclose(found, by_all(part, data + offset), atol=1e-4)


@given(rows)
def test_a_group_has_mean_nought_and_deviation_one(batch: list[tuple[float, str]]) -> None:
    scores, prompts = np.array([score for score, _ in batch]), [prompt for _, prompt in batch]
    found = apply(ByGroup(), scores, prompts)
    for prompt in set(prompts):
        own = np.array([p == prompt for p in prompts])
        assert found[own].mean() == pytest.approx(0, abs=1e-3)
        if np.ptp(scores[own]) > 1e-2:
            assert found[own].std() == pytest.approx(1, abs=1e-3)
        np.testing.assert_allclose(found[own], by_all(scores[own], scores[own]), rtol=1e-6, atol=1e-9)


def test_the_tracker_of_ddpo() -> None:
    """Two rounds by hand: b has one score in the first, so the batch serves; in the second both are known."""
    tracker = ByPrompt(buffer=4, min_count=2)
    first = apply(tracker, np.array([1.0, 3.0, 10.0]), ["a", "a", "b"])
    np.testing.assert_allclose(first, [-0.999999, 0.999999, 1.38218912], rtol=0, atol=1e-6)
    second = apply(tracker, np.array([5.0, 20.0]), ["a", "b"])
    np.testing.assert_allclose(second, [1.22474412, 0.9999998], rtol=0, atol=1e-6)


def test_the_tracker_forgets_what_is_older_than_its_buffer() -> None:
    tracker = ByPrompt(buffer=3, min_count=1)
    apply(tracker, np.array([1e6, -1e6, 7.0]), ["a"] * 3)
    found = apply(tracker, np.array([1.0, 2.0, 3.0]), ["a"] * 3)
    np.testing.assert_allclose(found, by_all(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0])))
    assert tracker.state_dict() == {"a": [1.0, 2.0, 3.0]}


@given(rows)
def test_a_tracker_that_remembers_one_batch_is_the_group(batch: list[tuple[float, str]]) -> None:
    scores, prompts = np.array([score for score, _ in batch]), [prompt for _, prompt in batch]
    np.testing.assert_allclose(
        apply(ByPrompt(buffer=20, min_count=1), scores, prompts), apply(ByGroup(), scores, prompts)
    )


def test_two_groups_of_one_prompt_are_two_groups_and_the_tracker_sees_one_prompt() -> None:
    scores, groups, prompts = np.array([0.0, 1.0, 10.0, 11.0]), np.array([0, 0, 1, 1]), ["a"] * 4
    np.testing.assert_allclose(ByGroup().apply(scores, groups, prompts), [-1, 1, -1, 1], rtol=1e-5)
    together = ByPrompt(buffer=4, min_count=4).apply(scores, groups, prompts)
    np.testing.assert_allclose(together, by_all(scores, scores))


def test_the_batch_is_measured_by_itself_alone() -> None:
    by = ByBatch()
    for scores in (np.array([1.0, 2.0, 6.0]), np.array([100.0, 300.0])):
        np.testing.assert_allclose(by.apply(scores, np.arange(len(scores)), [""] * len(scores)), by_all(scores, scores))
