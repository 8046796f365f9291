"""The OCR reward's target, and what it refuses; `isolated/check_ocr.py` reads pictures in its environment."""

from __future__ import annotations

import sys

import pytest

from rewards import make_reward
from rewards.checked import Checked
from rewards.errors import RewardUnavailable
from rewards.ocr import Ocr, target


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ('New York with "Hello World" written in fireworks', "helloworld"),
        ('a bus that says "42" beside a sign "Stop"', "42"),
        ('"A" only', "a"),
        ("a sign that says 'stop'", None),
        ("a sign that says “stop”", None),
        ('a ruler of 12" length', None),
        ('an empty sign " "', None),
        ("", None),
    ],
)
def test_the_target_is_what_stands_in_the_first_double_quotes(prompt: str, words: str | None) -> None:
    assert target(prompt) == words
    if words:
        Ocr.check_prompt(prompt)
    else:
        with pytest.raises(ValueError, match="put them between straight double quotes"):
            Ocr.check_prompt(prompt)


def test_an_environment_without_its_packages_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rapidfuzz.distance", None)
    with pytest.raises(RewardUnavailable, match=r"The reward 'ocr' cannot be built: ModuleNotFoundError: .*rapidfuzz"):
        Checked.make("ocr", lambda: make_reward("ocr"))
