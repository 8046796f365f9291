"""Subsampled transitions: every one has its chance, the weights undo the chances, the last one is always there."""

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


@given(transitions, fractions, st.integers(0, 2**31))
def test_a_draw_takes_one_of_each_stratum_in_order_and_the_last(steps: int, fraction: float, seed: int) -> None:
    strata = Strata(steps, fraction)
    drawn = strata.draw(7, torch.Generator().manual_seed(seed))
    assert drawn.shape == (7, len(strata.weights))
    assert (drawn[:, -1] == steps - 1).all()
    assert (drawn.diff(dim=1) > 0).all()
    assert drawn.min() >= 0


@given(transitions)
def test_a_fraction_of_one_takes_every_transition(steps: int) -> None:
    drawn = Strata(steps, 1.0).draw(3, torch.Generator())
    assert drawn.tolist() == [list(range(steps))] * 3


@pytest.mark.parametrize(("steps", "fraction"), [(12, 0.25), (50, 0.1), (7, 0.5)])
def test_the_weighted_draw_is_unbiased(steps: int, fraction: float) -> None:
    values = torch.randn(steps, generator=torch.Generator().manual_seed(1))
    strata = Strata(steps, fraction)
    sums = (values[strata.draw(200_000, torch.Generator().manual_seed(0))] * strata.weights).sum(dim=1)
    assert float(sums.mean()) == pytest.approx(float(values.sum()), abs=5 * float(sums.std()) / 200_000**0.5)


@given(st.integers(1, 50), st.integers(1, 60))
def test_shares_are_even_and_hold_every_sample_once(samples: int, updates: int) -> None:
    shares = list(split_samples(samples, updates, torch.Generator()))
    assert sorted(torch.cat(shares).tolist()) == list(range(samples))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len(shares) == min(updates, samples)
