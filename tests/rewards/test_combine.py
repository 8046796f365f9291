"""Combination of rewards: weights as shares, bad samples kept out, statistics that survive a checkpoint."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rewards.combine import Combiner
from rewards.standardise import Standardise

STANDARDISE: tuple[Standardise, ...] = ("run", "group", "prompt", "nothing")
everywhere = pytest.mark.parametrize("by", STANDARDISE)

values = st.floats(-1000, 1000, width=32)
scores = st.lists(values, min_size=1, max_size=8)
batches = st.lists(st.lists(st.tuples(values, values, st.sampled_from("abc")), min_size=1, max_size=8), max_size=6)


def combine(combiner: Combiner, **rewards: np.ndarray) -> np.ndarray:
    """The reward of a batch of one prompt."""
    return combiner.combine(rewards, ["a prompt"] * len(next(iter(rewards.values())))).rewards


def test_without_standardising_it_is_the_weighted_sum() -> None:
    combiner = Combiner({"a": 2.0, "b": -0.5}, "nothing")
    combined = combine(combiner, a=np.array([1.0, 2.0]), b=np.array([10.0, -4.0]))
    assert combined.dtype == np.float32
    np.testing.assert_allclose(combined, [-3.0, 6.0])


@pytest.mark.parametrize("by", ["run", "group", "prompt"])
def test_standardising_makes_a_weight_a_share_whatever_the_scales(by: Standardise) -> None:
    """Of two uncorrelated rewards with weights 3 and 1, the first has nine tenths of the variance."""
    a, b = np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, -1.0, 1.0, -1.0])
    combiner = Combiner({"a": 3.0, "b": 1.0}, by, min_count=2)
    combined = combiner.combine({"a": 1e-2 * a + 7.0, "b": 1e4 * b - 3.0}, ["p"] * 4)
    np.testing.assert_allclose(combined.rewards, 3 * a + b, rtol=1e-3)
    assert combined.shares == pytest.approx({"a": 0.9, "b": 0.1}, rel=1e-3)


@pytest.mark.parametrize("by", ["run", "group", "prompt"])
@given(st.lists(st.tuples(values, values), min_size=4, max_size=8), st.floats(0.1, 100), st.floats(-100, 100))
def test_scale_and_offset_of_one_reward_change_nothing(
    by: Standardise, rows: list[tuple[float, float]], scale: float, offset: float
) -> None:
    a, b = np.array(rows, np.float64).T
    prompts = ["p", "q"] * len(rows)
    # What does not vary has no scale.
    assume(min(np.ptp(part) for part in (a, b, a[::2], a[1::2], b[::2], b[1::2])) >= 1)
    plain = Combiner({"a": 1.0, "b": 2.0}, by, min_count=2).combine({"a": a, "b": b}, prompts[: len(a)])
    moved = Combiner({"a": 1.0, "b": 2.0}, by, min_count=2).combine(
        {"a": scale * a + offset, "b": b}, prompts[: len(a)]
    )
    np.testing.assert_allclose(moved.rewards, plain.rewards, rtol=1e-3, atol=1e-3)


@everywhere
@given(st.lists(st.tuples(values, st.sampled_from("abc")), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(by: Standardise, rows: list[tuple[float, str]], random) -> None:
    order = random.sample(range(len(rows)), len(rows))
    found, prompts = zip(*rows, strict=True)
    plain = Combiner({"a": 1.5}, by, min_count=3).combine({"a": np.array(found)}, prompts)
    mixed = Combiner({"a": 1.5}, by, min_count=3).combine({"a": np.array(found)[order]}, [prompts[i] for i in order])
    # Sums in another order round differently, and 1e-6 is what the smallest deviation is divided by.
    np.testing.assert_allclose(mixed.rewards, plain.rewards[order], rtol=1e-4, atol=1e-4)


@everywhere
@given(scores, st.floats(0.1, 10))
def test_a_single_reward_is_never_reordered_within_a_prompt(by: Standardise, part: list[float], weight: float) -> None:
    combined = combine(Combiner({"a": weight}, by, min_count=2), a=np.array(part))
    assert (np.diff(combined[np.argsort(part, kind="stable")]) >= 0).all()


def test_a_negative_weight_turns_the_order_round() -> None:
    assert combine(Combiner({"a": -1.0}), a=np.array([1.0, 5.0, 2.0])).argsort().tolist() == [1, 2, 0]


@everywhere
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_cannot_be_judged_gets_nan_and_stays_out_of_the_statistics(by: Standardise, bad: float) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6)).astype(np.float32)
    prompts = ["p", "p", "p", "q", "q", "q"]
    spoilt = a.copy()
    spoilt[2] = bad
    combiner, clean = (Combiner({"a": 1.0, "b": 1.0}, by, min_count=2) for _ in range(2))
    combined = combiner.combine({"a": spoilt, "b": b}, prompts)
    assert np.isnan(combined.rewards).tolist() == [False, False, True, False, False, False]
    without = clean.combine({"a": np.delete(a, 2), "b": np.delete(b, 2)}, prompts[1:])
    assert combiner.state_dict()["a"] == clean.state_dict()["a"]
    assert sum(combined.shares.values()) == pytest.approx(1)
    if by == "nothing":
        assert combined.shares == pytest.approx(without.shares)


@everywhere
def test_a_batch_without_one_good_sample_is_all_nan_and_teaches_nothing(by: Standardise) -> None:
    combiner = Combiner({"a": 1.0}, by)
    combine(combiner, a=np.array([1.0, 3.0]))
    before = json.dumps(combiner.state_dict())
    combined = combiner.combine({"a": np.array([np.nan, np.inf])}, ["a prompt"] * 2)
    assert np.isnan(combined.rewards).all()
    assert np.isnan(combined.shares["a"])
    assert json.dumps(combiner.state_dict()) == before


@everywhere
def test_rewards_without_a_weight_do_not_count(by: Standardise) -> None:
    a = np.array([1.0, 2.0, 4.0])
    both = Combiner({"a": 1.0, "watched": 0.0}, by).combine(
        {"other": np.array([9.0, 0.0, 3.0]), "a": a, "watched": np.array([np.nan, 1e9, -5.0])}, ["p"] * 3
    )
    alone = Combiner({"a": 1.0}, by).combine({"a": a}, ["p"] * 3)
    np.testing.assert_array_equal(both.rewards, alone.rewards)
    assert both.shares == alone.shares == {"a": pytest.approx(1)}


def test_shares_are_those_of_the_differences_within_prompts() -> None:
    """`between` only tells prompts apart, so it decides nothing; `against` is half of `for_` turned round."""
    within = np.array([1.0, -1.0, 2.0, -2.0])
    combiner = Combiner({"between": 1.0, "for_": 1.0, "against": -0.5}, "nothing")
    found = combiner.combine(
        {"between": np.array([500.0, 500.0, -3.0, -3.0]), "for_": within, "against": within}, ["p", "p", "q", "q"]
    )
    assert found.shares == pytest.approx({"between": 0.0, "for_": 2.0, "against": -1.0})


def test_where_no_sample_differs_no_reward_has_a_share() -> None:
    found = Combiner({"a": 1.0, "b": 1.0}, "nothing").combine({"a": np.full(3, 0.1), "b": np.full(3, 0.7)}, ["p"] * 3)
    assert all(np.isnan(share) for share in found.shares.values())


@everywhere
@given(batches, batches)
def test_a_restored_combiner_continues_as_if_nothing_had_happened(by: Standardise, before: list, after: list) -> None:
    original, restored = (Combiner({"a": 1.0, "b": 0.5}, by, 5, 3) for _ in range(2))

    def play(combiner: Combiner, part: list) -> np.ndarray:
        a, b, prompts = zip(*part, strict=True)
        return combiner.combine({"a": np.array(a), "b": np.array(b)}, prompts).rewards

    for part in before:
        play(original, part)
    restored.load_state_dict(json.loads(json.dumps(original.state_dict())))
    for part in after:
        np.testing.assert_array_equal(play(restored, part), play(original, part))
    assert json.dumps(restored.state_dict()) == json.dumps(original.state_dict())


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (), (3,), (2, 2)])
def test_scores_of_another_shape_are_refused_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="'own' have shape"):
        Combiner({"own": 1.0}).combine({"own": np.zeros(shape, np.float32)}, ["a", "a", "b", "b"])
