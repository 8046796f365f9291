"""What choices say, on values that are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rewards.people import results
from rewards.people.choices import Choice
from rewards.people.questions import Question
from rewards.people.results import WinRate, agreement, consistency, summary, win_rates

Choose = Callable[..., Choice]


def made(number: int, models: tuple[str, ...] = ("a", "b"), words: str = "") -> Question:
    return Question(f"{number}", tuple((f"{number}-{model}.png",) for model in models), models, words=words)


def judged(choose: Choose, winners: list[Any], models: tuple[str, ...] = ("a", "b")) -> tuple[list[Choice], dict]:
    questions = [made(number, models) for number in range(len(winners))]
    chosen = [choose(question, winner) for question, winner in zip(questions, winners, strict=True)]
    return chosen, {question.id: question for question in questions}


def test_two_models_are_their_share_with_one_choice_more(choose: Choose) -> None:
    chosen, questions = judged(choose, [0] * 30 + [1] * 9 + ["tie"] * 2 + ["both_bad"] * 5)
    (first, second) = win_rates(chosen, questions)[""]
    p = 31.5 / 42  # 30 + two halves, and half of the choice that is given beforehand
    width = 1.959964 / math.sqrt(42 * p * (1 - p))
    assert first == WinRate("a", pytest.approx(p), first.low, first.high, 41)
    assert second.rate == pytest.approx(1 - p)
    assert math.log(first.low / (1 - first.low)) == pytest.approx(math.log(p / (1 - p)) - width)
    assert first.high == pytest.approx(1 - second.low)


def test_ten_of_ten_is_not_certain(choose: Choose) -> None:
    first, _ = win_rates(*judged(choose, [0] * 10))[""]
    assert 0.5 < first.low < 0.7
    assert first.rate == pytest.approx(10.5 / 11)
    assert first.high < 1


def test_the_order_that_they_stood_in_changes_nothing(choose: Choose) -> None:
    questions = [made(number) for number in range(20)]
    straight = [choose(question, number % 3 == 0) for number, question in enumerate(questions)]
    turned = [choose(question, 1 - (number % 3 == 0), order=(1, 0)) for number, question in enumerate(questions)]
    by_id = {question.id: question for question in questions}
    assert win_rates(straight, by_id) == win_rates(turned, by_id)


def test_sets_of_three_are_lucess_model(choose: Choose) -> None:
    counts = (59.0, 29.0, 9.0)
    winners = [model for model, count in enumerate(counts) for _ in range(int(count))]
    rates = {rate.model: rate for rate in win_rates(*judged(choose, winners, ("a", "b", "c")))[""]}
    worth = np.array(counts)  # of Luce's model, but for what is given beforehand
    for own, rate in zip(range(3), (rates[name] for name in "abc"), strict=True):
        others = [other for other in range(3) if other != own]
        wanted = np.mean([worth[own] / (worth[own] + worth[other]) for other in others])
        assert rate.rate == pytest.approx(wanted, abs=0.02)
        assert rate.low < wanted < rate.high


@pytest.mark.parametrize("theta", [0.0, 1.0])
def test_intervals_hold_what_they_promise(choose: Choose, theta: float) -> None:
    rng, p = np.random.default_rng(0), 1 / (1 + math.exp(-theta))
    hits = 0
    for _ in range(200):
        winners = [int(rng.random() > p) for _ in range(40)]
        rate = next(r for r in win_rates(*judged(choose, winners))[""] if r.model == "a")
        hits += rate.low <= p <= rate.high
    assert 182 <= hits <= 199  # .95 of 200, 3 standard deviations


def test_each_question_has_its_own_rates_and_what_comes_again_counts_once(choose: Choose) -> None:
    questions = [made(0, words="best?"), made(0, words="most?"), Question("no models", (("x.png",), ("y.png",)))]
    chosen = [choose(questions[0], 0), choose(questions[0], 1, round=1), choose(questions[1], 1), choose(questions[2])]
    rates = win_rates(chosen, {question.id: question for question in questions})
    assert {words: (found[0].model, found[0].choices) for words, found in rates.items()} == {
        "best?": ("a", 1),
        "most?": ("b", 1),
    }


def test_raters_are_compared_with_themselves_wherever_it_stood(choose: Choose) -> None:
    one, other, third = (made(number) for number in range(3))
    chosen = [
        choose(one, 0, order=(0, 1)),
        choose(one, 1, round=1, order=(1, 0)),  # the same picture
        choose(other, "tie"),
        choose(other, 0, round=1),
        choose(third, 0),
        choose(one, 1, rater="Bo"),
    ]
    assert consistency(chosen) == (1, 2)


def test_alpha_is_that_of_the_literature(choose: Choose) -> None:
    # Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, B: nominal, two observers, ten units, .095.
    one = [0, 1, 0, 0, 0, 0, 0, 0, 1, 0]
    other = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    questions = [made(number) for number in range(10)]
    chosen = [
        choose(question, value, rater)
        for rater, values in (("Ada", one), ("Bo", other))
        for question, value in zip(questions, values, strict=True)
    ]
    assert agreement(chosen) == pytest.approx(0.095, abs=5e-4)
    chosen += [choose(made(99), "tie", "Ada")]  # which nobody else saw
    assert agreement(chosen) == pytest.approx(0.095, abs=5e-4)
    assert agreement(choice for choice in chosen if choice.rater == "Ada") is None
    assert agreement([choose(questions[0], 1, rater) for rater in ("Ada", "Bo")]) is None
    assert agreement([]) is None


def test_the_summary_says_what_is_known(choose: Choose) -> None:
    assert results.lines(summary([], {})) == ["0 choices"]
    chosen, questions = judged(choose, [0, 0, 0, 1, "tie", "both_bad"])
    found = summary(chosen, questions)
    assert found["raters"] == [{"rater": "Ada", "choices": 6, "tie": 1, "both_bad": 1, "left": 0.75}]
    assert "alpha" not in found
    said = results.lines(found)
    assert said[1] == "Ada: 6 choices, 1 ties, 1 both bad, left 75% of the rest"
    assert said[3].startswith("  a: 0.667 (0.")
