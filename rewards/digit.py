"""The digit of a chat completion on average: what a model's answer says, and how sure of it the model was.

The form is OpenAI's, which vLLM, llama.cpp, SGLang and others speak as well.
"""

from __future__ import annotations

import math
import re

from pydantic import BaseModel, Field, ValidationError

_AROUND = r"""[\s*_"'`()\[\]{}:=]*"""  # the number of an answer
_BEFORE = " \n\t▁Ġ"  # a word, in tokenisers' spelling


class NoDigit(ValueError):
    """An answer that is no digit of the scale; asking again would bring the same. The message says what it is."""


def expected_digit(answer: bytes, scale: range) -> float:
    """The mean digit of a chat completion, sum_d d p_d / sum_d p_d over the digits d of the scale.

    p is the model's probability of each token in the place of the digit that it said. Tokens that differ by a space
    alone are the same digit, and those that are no digit of the scale do not count. Where no probabilities were told,
    it is the digit.

    The answer has to be the digit alone, but for marks around it, `Score:` before it and `/5` or `out of 5` behind it.

    Args:
        answer: The body of the response, JSON.
        scale: The digits that may be said, within 0 to 9.

    Raises:
        NoDigit: If it is something else.
    """
    try:
        choice = _Completion.model_validate_json(answer).choices[0]
    except ValidationError:
        raise NoDigit(f"an answer that is no chat completion: {answer[:100].decode(errors='replace')!r}") from None
    text = choice.message.content or ""
    digits = f"[{scale[0]}-{scale[-1]}]"
    form = rf"{_AROUND}(?:(?:score|rating|answer){_AROUND})?({digits})(?:\s*(?:/|out of)\s*{scale[-1]})?\.?{_AROUND}"
    said = re.fullmatch(form, text, re.IGNORECASE)
    if said is None:
        raise NoDigit(f"the answer {text[:100]!r} where a digit from {scale[0]} to {scale[-1]} was asked for")
    places = (choice.logprobs and choice.logprobs.content) or []
    place = next((place for place in places if place.token.strip(_BEFORE) == said[1]), None)
    return float(said[1]) if place is None else _mean(place, scale)


class _Token(BaseModel):
    token: str
    logprob: float


class _Place(_Token):
    top_logprobs: list[_Token] | None = None


class _LogProbs(BaseModel):
    content: list[_Place] | None = None


class _Message(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Message
    logprobs: _LogProbs | None = None


class _Completion(BaseModel):
    """What is read of a response; the rest is ignored."""

    choices: list[_Choice] = Field(min_length=1)


def _mean(place: _Place, scale: range) -> float:
    told = {token.token: token.logprob for token in (place, *(place.top_logprobs or ()))}
    known = {str(digit): digit for digit in scale}
    digits = [(known[name], value) for token, value in told.items() if (name := token.strip(_BEFORE)) in known]
    most = max(value for _, value in digits)
    if any(math.isnan(value) for _, value in digits) or math.isinf(most):
        raise NoDigit("log-probabilities that are not finite")
    weights = [math.exp(value - most) for _, value in digits]
    return sum(weight * digit for weight, (digit, _) in zip(weights, digits, strict=True)) / sum(weights)
