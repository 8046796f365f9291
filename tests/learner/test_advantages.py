"""Advantages: weights as shares, bad samples kept out, statistics that survive a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from learner.advantages import Advantages
from learner.standardise import Standardise

STANDARDISE: tuple[Standardise, ...] = ("run", "group", "prompt", "batch", "nothing")
everywhere = pytest.mark.parametrize("by", STANDARDISE)

values = st.floats(-1000, 1000, width=32)
scores = st.lists(values, min_size=1, max_size=8)
batches = st.lists(st.lists(st.tuples(values, values, st.sampled_from("abc")), min_size=1, max_size=8), max_size=6)


class Found(NamedTuple):
    """What is made of a batch."""

    rewards: np.ndarray
    shares: dict[str, float]


def make(advantages: Advantages, scores: Mapping[str, np.ndarray], prompts: Sequence[str]) -> Found:
    """The advantages and shares of a batch in which every prompt is one group."""
    groups = np.unique(prompts, return_inverse=True)[1]
    found, metrics = advantages.of(scores, groups, prompts)
    return Found(found, {name.removeprefix("share/"): v for name, v in metrics.items() if name.startswith("share/")})


def combine(advantages: Advantages, **rewards: np.ndarray) -> np.ndarray:
    """The advantages of a batch of one prompt."""
    return make(advantages, rewards, ["a prompt"] * len(next(iter(rewards.values())))).rewards


def test_without_standardising_it_is_the_weighted_sum() -> None:
    advantages = Advantages({"a": 2.0, "b": -0.5}, "nothing")
    combined = combine(advantages, a=np.array([1.0, 2.0]), b=np.array([10.0, -4.0]))
    assert combined.dtype == np.float32
    np.testing.assert_allclose(combined, [-3.0, 6.0])


@pytest.mark.parametrize("by", ["run", "group", "prompt"])
def test_standardising_makes_a_weight_a_share_whatever_the_scales(by: Standardise) -> None:
    """Of two uncorrelated rewards with weights 3 and 1, the first has nine tenths of the variance."""
    a, b = np.array([1.0, 1.0, -1.0, -1.0]), np.array([1.0, -1.0, 1.0, -1.0])
    advantages = Advantages({"a": 3.0, "b": 1.0}, by, min_count=2)
    combined = make(advantages, {"a": 1e-2 * a + 7.0, "b": 1e4 * b - 3.0}, ["p"] * 4)
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
    plain = make(Advantages({"a": 1.0, "b": 2.0}, by, min_count=2), {"a": a, "b": b}, prompts[: len(a)])
    moved = make(
        Advantages({"a": 1.0, "b": 2.0}, by, min_count=2), {"a": scale * a + offset, "b": b}, prompts[: len(a)]
    )
    np.testing.assert_allclose(moved.rewards, plain.rewards, rtol=1e-3, atol=1e-3)


@everywhere
@given(st.lists(st.tuples(values, st.sampled_from("abc")), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(by: Standardise, rows: list[tuple[float, str]], random) -> None:
    order = random.sample(range(len(rows)), len(rows))
    found, prompts = zip(*rows, strict=True)
    plain = make(Advantages({"a": 1.5}, by, min_count=3), {"a": np.array(found)}, prompts)
    mixed = make(Advantages({"a": 1.5}, by, min_count=3), {"a": np.array(found)[order]}, [prompts[i] for i in order])
    # Sums in another order round differently, and 1e-6 is what the smallest deviation is divided by.
    np.testing.assert_allclose(mixed.rewards, plain.rewards[order], rtol=1e-4, atol=1e-4)


@everywhere
@given(scores, st.floats(0.1, 10))
def test_a_single_reward_is_never_reordered_within_a_prompt(by: Standardise, part: list[float], weight: float) -> None:
    combined = combine(Advantages({"a": weight}, by, min_count=2), a=np.array(part))
    assert (np.diff(combined[np.argsort(part, kind="stable")]) >= 0).all()


def test_a_negative_weight_turns_the_order_round() -> None:
    assert combine(Advantages({"a": -1.0}), a=np.array([1.0, 5.0, 2.0])).argsort().tolist() == [1, 2, 0]


@everywhere
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sample_that_cannot_be_judged_gets_nan_and_stays_out_of_the_statistics(by: Standardise, bad: float) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 6)).astype(np.float32)
    prompts = ["p", "p", "p", "q", "q", "q"]
    spoilt = a.copy()
    spoilt[2] = bad
    advantages, clean = (Advantages({"a": 1.0, "b": 1.0}, by, min_count=2) for _ in range(2))
    combined = make(advantages, {"a": spoilt, "b": b}, prompts)
    assert np.isnan(combined.rewards).tolist() == [False, False, True, False, False, False]
    without = make(clean, {"a": np.delete(a, 2), "b": np.delete(b, 2)}, prompts[1:])
    assert advantages.state_dict() == clean.state_dict()
    np.testing.assert_array_equal(np.delete(combined.rewards, 2), without.rewards)  # as if it had never been drawn
    assert sum(combined.shares.values()) == pytest.approx(1)
    assert combined.shares == pytest.approx(without.shares)


@everywhere
def test_a_batch_without_one_good_sample_is_all_nan_and_teaches_nothing(by: Standardise) -> None:
    advantages = Advantages({"a": 1.0}, by)
    combine(advantages, a=np.array([1.0, 3.0]))
    before = json.dumps(advantages.state_dict())
    combined = make(advantages, {"a": np.array([np.nan, np.inf])}, ["a prompt"] * 2)
    assert np.isnan(combined.rewards).all()
    assert np.isnan(combined.shares["a"])
    assert json.dumps(advantages.state_dict()) == before


@everywhere
def test_rewards_without_a_weight_do_not_count(by: Standardise) -> None:
    a = np.array([1.0, 2.0, 4.0])
    both = make(
        Advantages({"a": 1.0, "watched": 0.0}, by),
        {"other": np.array([9.0, 0.0, 3.0]), "a": a, "watched": np.array([np.nan, 1e9, -5.0])},
        ["p"] * 3,
    )
    alone = make(Advantages({"a": 1.0}, by), {"a": a}, ["p"] * 3)
    np.testing.assert_array_equal(both.rewards, alone.rewards)
    assert both.shares == alone.shares == {"a": pytest.approx(1)}


def test_shares_are_those_of_the_differences_within_prompts() -> None:
    """`between` only tells prompts apart, so it decides nothing; `against` is half of `for_` turned round."""
    within = np.array([1.0, -1.0, 2.0, -2.0])
    advantages = Advantages({"between": 1.0, "for_": 1.0, "against": -0.5}, "nothing")
    found = make(
        advantages,
        {"between": np.array([500.0, 500.0, -3.0, -3.0]), "for_": within, "against": within},
        ["p", "p", "q", "q"],
    )
    assert found.shares == pytest.approx({"between": 0.0, "for_": 2.0, "against": -1.0})


def test_where_no_sample_differs_no_reward_has_a_share() -> None:
    found = make(Advantages({"a": 1.0, "b": 1.0}, "nothing"), {"a": np.full(3, 0.1), "b": np.full(3, 0.7)}, ["p"] * 3)
    assert all(np.isnan(share) for share in found.shares.values())


@everywhere
@given(batches, batches)
def test_a_restored_advantages_continues_as_if_nothing_had_happened(by: Standardise, before: list, after: list) -> None:
    original, restored = (Advantages({"a": 1.0, "b": 0.5}, by, 5, 3) for _ in range(2))

    def play(advantages: Advantages, part: list) -> np.ndarray:
        a, b, prompts = zip(*part, strict=True)
        return make(advantages, {"a": np.array(a), "b": np.array(b)}, prompts).rewards

    for part in before:
        play(original, part)
    restored.load_state_dict(json.loads(json.dumps(original.state_dict())))
    for part in after:
        np.testing.assert_array_equal(play(restored, part), play(original, part))
    assert json.dumps(restored.state_dict()) == json.dumps(original.state_dict())


@pytest.mark.parametrize("shape", [(4, 1), (1, 4), (), (3,), (2, 2)])
def test_scores_of_another_shape_are_refused_by_name(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="'own' have shape"):
        make(Advantages({"own": 1.0}), {"own": np.zeros(shape, np.float32)}, ["a", "a", "b", "b"])


def test_gdpo() -> None:
    """Each reward by its group, the sum by the batch; the second reward is where the first is constant."""
    rewards = {"a": np.array([1.0, 1.0, 0.0, 0.0]), "b": np.array([20.0, 22.0, 21.0, 25.0])}
    gdpo = Advantages({"a": 1.0, "b": 0.5}, "group", whiten=True)
    np.testing.assert_allclose(combine(gdpo, **rewards), [0.55030152, 1.18223008, -1.49819436, -0.23433724], atol=1e-5)
    rewards["a"] = np.ones(4)
    np.testing.assert_allclose(combine(gdpo, **rewards), [-1.06904497, 0.0, -0.53452248, 1.60356745], atol=1e-5)


def test_the_metrics_are_of_the_advantages_that_are_numbers() -> None:
    found, metrics = Advantages({"a": 1.0}, "nothing").of({"a": np.array([1.0, np.nan, 3.0])}, np.zeros(3), ["p"] * 3)
    assert np.isnan(found).tolist() == [False, True, False]
    assert metrics == {"reward/mean": 2.0, "reward/std": 1.0, "share/a": pytest.approx(1)}
    _, metrics = Advantages({"a": 1.0}, "nothing").of({"a": np.array([np.nan])}, np.zeros(1), ["p"])
    assert np.isnan([metrics["reward/mean"], metrics["reward/std"]]).all()
