"""Trouble that an iteration's figures show: said once, and not where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.records.watch import Watch, is_constant, of_people

GROUPS = [0, 0, 0, 1, 1, 1]
FINE = {"own": np.array([1.0, 2.0, 3.0, 1.0, 1.0, 1.0])}


def said(watch: Watch, figures: list[dict[str, float]]) -> list[str]:
    return [sentence for i, metrics in enumerate(figures) for sentence in watch.look(i + 1, metrics, FINE, GROUPS)]


def test_a_reward_that_tells_no_samples_apart_is_named_once() -> None:
    watch = Watch(["own"])
    scores = {"own": np.array([1.0, 1.0, np.nan, 2.0, 2.0, 2.0]), "watched": np.zeros(6)}
    (sentence,) = watch.look(1, {}, scores, GROUPS)
    assert sentence.startswith("Iteration 1: The reward 'own' gave the samples of each prompt the same score")
    assert watch.look(2, {}, scores, GROUPS) == []


def test_one_prompt_whose_samples_differ_is_enough() -> None:
    assert Watch(["own"]).look(1, {}, FINE, GROUPS) == []


@pytest.mark.parametrize(
    ("scores", "constant"),
    [
        ([3.0, 3.0 + 1e-7, 3.0, 5.0, 5.0, 5.0], True),
        ([3.0, 3.0, 3.0, 5.0, 5.0, 5.001], False),
        ([np.nan] * 6, False),
        ([1.0, np.nan, np.nan, 2.0, np.inf, np.nan], False),
        ([0.0] * 6, True),
    ],
)
def test_constant_is_up_to_rounding_and_among_what_was_judged(scores: list[float], constant: bool) -> None:
    assert is_constant(np.array(scores), np.array(GROUPS)) == constant


def test_prompts_with_one_sample_compare_nothing() -> None:
    assert not is_constant(np.zeros(3), np.arange(3))


def test_no_pairs_is_said_once() -> None:
    found = said(Watch(["own"]), [{"pairs": 4.0}, {"pairs": 0.0}, {"pairs": 0.0}])
    assert len(found) == 1
    assert found[0].startswith("Iteration 2: No two samples")
    assert "objective.min_gap" in found[0]


def asked(chosen: float, ties: float, bad: float, discarded: float = 0) -> dict[str, float]:
    answers = {"chosen": chosen, "ties": ties, "both_bad": bad, "discarded": discarded}
    return {f"people/{kind}": count for kind, count in answers.items()}


def test_answers_of_which_none_prefers_a_picture_are_warned_of_every_time() -> None:
    for iteration in (4, 5):
        warning = of_people(iteration, asked(0, 1, 2))
        assert warning is not None
        assert (warning.iteration, warning.rule) == (iteration, "people")
        assert warning.sentence.startswith(f"Iteration {iteration}: people preferred no picture")
        assert "(1 tie, 2 pairs with both bad)" in warning.sentence
    assert of_people(4, asked(1, 5, 5)) is None
    assert of_people(4, {"pairs": 0.0}) is None


def test_answers_that_were_discarded_are_warned_of_also_where_others_count() -> None:
    discarded = "Iteration 4: what people said of 3 pairs is not trained on, because other pictures were drawn after"
    said = [of_people(4, asked(*answers, discarded=3)) for answers in ((1, 0, 0), (0, 1, 0), (0, 0, 0))]
    sentences = [warning.sentence for warning in said if warning is not None]
    assert len(sentences) == 3
    assert all(sentence.startswith(discarded) for sentence in sentences)
    assert sentences[0].endswith("that they were drawn with.")
    assert sentences[1].startswith(f"{sentences[0]} Of the rest they preferred none (1 tie, 0 pairs with both bad), so")
    assert sentences[2].startswith(f"{sentences[0]} Nothing else was answered, so the update had no preference")
    assert not any("people preferred no picture" in sentence for sentence in sentences)
    assert Watch(["people"]).look(1, asked(0, 0, 0, 4) | {"pairs": 0.0}, {"people": np.full(6, 0.5)}, GROUPS) == []


def test_where_some_answers_count_a_reward_that_is_constant_is_still_named() -> None:
    ties = {"people": np.full(6, 0.5)}
    assert len(Watch(["people"]).look(1, asked(1, 0, 0, discarded=3), ties, GROUPS)) == 1


def test_what_is_said_of_people_is_not_said_of_a_reward_as_well() -> None:
    ties = {"people": np.full(6, 0.5)}
    watch = Watch(["people"])
    assert watch.look(1, asked(0, 3, 0) | {"pairs": 0.0}, ties, GROUPS) == []
    assert len(watch.look(2, {"pairs": 0.0}, ties, GROUPS)) == 2


@pytest.mark.parametrize("name", ["loss", "loss/forward", "grad_norm", "grad_norm/flow", "kl/pretrained"])
def test_a_figure_far_above_its_median_is_said_once(name: str) -> None:
    found = said(Watch(["own"]), [{name: value} for value in (1.0, -2.0, 3.0, 250.0, 9000.0)])
    assert len(found) == 1
    assert f"Iteration 4: {name} is 250, over 100 times its median so far (2)" in found[0]
    assert ("kl_weight" in found[0]) == name.startswith("kl")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_figure_that_is_not_finite_is_said_at_once(value: float) -> None:
    (sentence,) = said(Watch(["own"]), [{"loss": value}, {"loss": value}])
    assert "Iteration 1: loss is" in sentence
    assert "learner.lr" in sentence


@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=30))
def test_a_figure_that_stays_within_a_factor_is_never_mentioned(values: list[float]) -> None:
    assert (
        said(Watch(["own"]), [{"loss": value, "kl/pretrained": value, "time/learn": 1e9 * value} for value in values])
        == []
    )
