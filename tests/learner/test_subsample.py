"""Subsampled transitions: every one has its chance, and the weights undo the chances."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.subsample import Strata, split_samples

transitions = st.integers(1, 60)
fractions = st.floats(0.01, 1.0)


@given(transitions, fractions)
def test_weights_sum_to_the_number_of_transitions(steps: int, fraction: float) -> None:
    assert float(Strata(steps, fraction).weights.sum()) == steps


@given(transitions, fractions, st.integers(0, 2**31), st.booleans())
def test_a_draw_takes_one_of_each_stratum_in_order(steps: int, fraction: float, seed: int, always_last: bool) -> None:
    strata = Strata(steps, fraction, always_last)
    drawn = strata.draw(7, torch.Generator().manual_seed(seed))
    assert drawn.shape == (7, len(strata.weights))
    assert (drawn.diff(dim=1) > 0).all()
    assert drawn.min() >= 0
    assert drawn.max() < steps
    if always_last:
        assert (drawn[:, -1] == steps - 1).all()
        assert (strata.weights == 1).all()


@pytest.mark.parametrize("always_last", [False, True])
@given(transitions)
def test_a_fraction_of_one_takes_every_transition(always_last: bool, steps: int) -> None:
    drawn = Strata(steps, 1.0, always_last).draw(3, torch.Generator())
    assert drawn.tolist() == [list(range(steps))] * 3


@pytest.mark.parametrize(("steps", "fraction"), [(12, 0.25), (50, 0.1), (7, 0.5)])
def test_the_weighted_draw_is_unbiased(steps: int, fraction: float) -> None:
    values = torch.randn(steps, generator=torch.Generator().manual_seed(1))
    strata = Strata(steps, fraction)
    drawn = strata.draw(200_000, torch.Generator().manual_seed(0))
    sums = (values[drawn] * strata.weights).sum(dim=1)
    assert float(sums.mean()) == pytest.approx(float(values.sum()), abs=5 * float(sums.std()) / 200_000**0.5)
    # The last one counts as much as any other.
    counted = torch.zeros(steps).index_add(0, drawn.flatten(), strata.weights.repeat(200_000)) / 200_000
    torch.testing.assert_close(counted, torch.ones(steps), atol=0.03, rtol=0)


@given(st.integers(1, 50), st.integers(1, 60))
def test_shares_are_even_and_hold_every_sample_once(samples: int, updates: int) -> None:
    shares = list(split_samples(samples, updates, torch.Generator()))
    assert sorted(torch.cat(shares).tolist()) == list(range(samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len(shares) == min(updates, samples)
