"""The mean digit of a chat completion, in closed form and in the spellings of several servers."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.digit import NoDigit, expected_digit
from tests.support.chat_server import completion

SCALE = range(1, 6)


def read(answer: Any, scale: range = SCALE) -> float:
    return expected_digit(json.dumps(answer).encode(), scale)


def test_the_score_is_the_mean_over_the_digits_of_the_scale() -> None:
    told = {"4": math.log(0.6), "5": math.log(0.3), " 3": math.log(0.05), "4.": math.log(0.03), "9": math.log(0.02)}
    assert read(completion("4", ("4", told))) == pytest.approx((0.6 * 4 + 0.3 * 5 + 0.05 * 3) / 0.95)


def test_spellings_of_a_digit_add_up() -> None:
    told = {"4": math.log(0.3), " 4": math.log(0.2), "▁4": math.log(0.1), "1": math.log(0.4)}
    assert read(completion("4", ("4", told))) == pytest.approx(0.6 * 4 + 0.4 * 1)


@given(st.lists(st.floats(-30, 0), min_size=5, max_size=5), st.floats(-500, 500), st.randoms())
def test_the_mean_lies_on_the_scale_and_hangs_on_differences_alone(
    logs: list[float], shift: float, random: Any
) -> None:
    told = {str(digit): log for digit, log in zip(SCALE, logs, strict=True)}
    said = max(told, key=lambda digit: told[digit])
    mean = sum(math.exp(log) * int(digit) for digit, log in told.items()) / sum(map(math.exp, logs))
    shuffled = list(told.items())
    random.shuffle(shuffled)
    shifted = {digit: log + shift for digit, log in shuffled}
    assert 1 <= mean <= 5
    assert read(completion(said, (said, told))) == pytest.approx(mean)
    assert read(completion(said, (said, shifted))) == pytest.approx(mean, abs=1e-6)


def test_the_place_is_that_of_the_digit_whatever_stands_around_it() -> None:
    sure, split = {"Score": 0.0, "Rating": -9.0}, {" 2": math.log(0.75), " 3": math.log(0.25)}
    tokens = [("Score", sure), (":", {":": 0.0}), (" 2", split), ("/", {"/": 0.0}), ("5", {"5": 0.0})]
    assert read(completion("Score: 2/5", *tokens)) == pytest.approx(2.25)


def test_an_unlikely_token_costs_nothing_however_its_server_writes_minus_infinity() -> None:
    for least in (-9999.0, -3.4028234663852886e38, -math.inf):  # OpenAI and vLLM, SGLang at temperature 0, and plain
        assert read(completion("4", ("4", {"4": 0.0, "5": least}))) == 4


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {"content": None},
        {"content": []},
        {"tokens": ["4"], "token_logprobs": [-0.1], "top_logprobs": [{"4": -0.1}]},  # of the older completions
        {"content": [{"token": "Four", "logprob": -0.1, "top_logprobs": []}]},  # of other tokens than the text
        {"content": [{"token": "4", "logprob": -0.1}]},
        {"content": [{"token": "4", "logprob": -0.1, "top_logprobs": None}]},
    ],
)
def test_without_probabilities_the_score_is_the_digit(logprobs: Any) -> None:
    answer = completion("4")
    answer["choices"][0]["logprobs"] = logprobs
    assert read(answer) == 4
    del answer["choices"][0]["logprobs"]
    assert read(answer) == 4


@pytest.mark.parametrize(
    "text",
    ["4", " 4\n", "4.", "**4**", '"4"', "Score: 4", "**Rating:** 4", "score = 4/5", "4 / 5", "4 out of 5", "(4)",
     '{"score": 4}', "Answer: `4`"],
)  # fmt: skip
def test_marks_around_the_digit_are_allowed(text: str) -> None:
    assert read(completion(text)) == 4


@pytest.mark.parametrize(
    "text",
    ["", None, "0", "6", "9", "10", "44", "4.5", "4,5", "-4", "−4", "4/10", "4 out of 10", "4 5", "4-5", "four", "٤",
     "4!?", "I cannot judge pictures of 2 people.", "Sorry, I can't help with that.", "The picture deserves a 4",
     "5 stars", "Let me think step by step. 1. The"],
)  # fmt: skip
def test_anything_else_is_no_score(text: str | None) -> None:
    with pytest.raises(NoDigit, match="where a digit from 1 to 5 was asked for"):
        read(completion(text))


def test_the_scale_may_begin_at_nothing() -> None:
    told = {"0": math.log(0.5), "9": math.log(0.5)}
    assert read(completion("0", ("0", told)), range(10)) == pytest.approx(4.5)


@pytest.mark.parametrize(
    "answer",
    [b"", b"null", b"[]", b"{}", b'"4"', b"4", b"<html>502</html>", b'{"choices": []}', b'{"choices": [{}]}',
     b'{"choices": [{"message": {"content": 4}}]}', b'{"choices": [{"message": {"content": "4"}', b"\xff\xfe",
     b"[" * 9999, b'{"error": {"message": "no such model"}}', b'data: {"choices": [{"delta": {"content": "4"}}]}',
     b'{"choices": [{"message": {"content": "4"}, "logprobs": {"content": [{"token": "4", "logprob": null}]}}]}'],
)  # fmt: skip
def test_what_is_no_chat_completion_is_no_score(answer: bytes) -> None:
    with pytest.raises(NoDigit, match="no chat completion"):
        expected_digit(answer, SCALE)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_probabilities_that_are_no_numbers_are_no_score(value: float) -> None:
    with pytest.raises(NoDigit, match="not finite"):
        read(completion("4", ("4", {"4": value})))
