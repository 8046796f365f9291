"""The variance's parts: they add up, they are those that were put in, and they fall to zero where nothing differs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.measures.variance import split, sums_of_squares

SIZES = st.tuples(st.integers(2, 5), st.integers(2, 5), st.integers(2, 4))


def design(rng: np.random.Generator, size: tuple[int, int, int], *deviations: float) -> np.ndarray:
    """Scores of a crossed design with known deviations of prompt, x_T, both and chain."""
    prompts, noises, chains = size
    prompt, noise, both, chain = deviations
    return (
        3.0
        + prompt * rng.normal(size=(prompts, 1, 1))
        + noise * rng.normal(size=(1, noises, 1))
        + both * rng.normal(size=(prompts, noises, 1))
        + chain * rng.normal(size=(prompts, noises, chains))
    )


@given(SIZES, st.integers(0, 999))
def test_the_sums_of_squares_add_up_to_that_of_all_scores(size: tuple[int, int, int], seed: int) -> None:
    scores = design(np.random.default_rng(seed), size, 1, 2, 0.5, 1)
    assert sum(sums_of_squares(scores)) == pytest.approx(((scores - scores.mean()) ** 2).sum())
    parts = split(scores)
    assert parts is not None
    assert parts.total == pytest.approx(parts.prompt + parts.noise + parts.both + parts.chain)


@pytest.mark.parametrize("deviations", [(2, 1, 0.5, 1), (0, 1, 0, 2), (1, 0, 2, 0), (0, 0, 0, 1)])
def test_known_parts_are_found_without_bias(deviations: tuple[float, ...]) -> None:
    rng = np.random.default_rng(0)
    found = np.array([split(design(rng, (6, 5, 3), *deviations)) for _ in range(800)])
    expected, error = np.square(deviations), found.std(axis=0) / np.sqrt(len(found))
    assert np.all(np.abs(found.mean(axis=0) - expected) <= 4 * error + 1e-12)


def test_the_total_is_the_variance_of_a_score_drawn_anew() -> None:
    rng = np.random.default_rng(1)
    totals = [split(design(rng, (6, 5, 3), 1, 1, 1, 1)).total for _ in range(800)]  # type: ignore[union-attr]
    assert np.mean(totals) == pytest.approx(4, abs=4 * np.std(totals) / np.sqrt(800))


def test_purely_additive_effects_leave_nothing_to_the_rest() -> None:
    prompt, noise = np.array([0.0, 2.0, 4.0]), np.array([1.0, 5.0])
    parts = split(np.repeat((prompt[:, None] + noise)[..., None], 2, axis=2))
    assert parts == pytest.approx((4, 8, 0, 0))  # the sample variances


def test_prompts_that_could_not_be_judged_are_left_out() -> None:
    scores = design(np.random.default_rng(2), (4, 3, 2), 1, 1, 1, 1)
    expected = split(scores[1:])
    scores[0, 2, 1] = np.nan
    assert split(scores) == expected
    scores[1:3, 0, 0] = np.nan
    assert split(scores) is None


def test_a_constant_can_be_added_and_units_changed() -> None:
    scores = design(np.random.default_rng(3), (4, 3, 2), 1, 2, 1, 1)
    assert split(3 * scores - 7) == pytest.approx([9 * part for part in split(scores)])  # type: ignore[union-attr]
