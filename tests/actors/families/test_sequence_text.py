"""Prompts of any length: counted in windows, and never cut."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from actors.families.sequence_text import count_windows, read_whole


def words(prompts: Sequence[str], **_: Any) -> SimpleNamespace:
    """A tokenizer of a token a word, and one for the end."""
    return SimpleNamespace(input_ids=[[0] * (len(prompt.split()) + 1) for prompt in prompts])


@pytest.mark.parametrize(("count", "windows"), [(0, 1), (3, 1), (4, 2), (7, 2), (8, 3)])
def test_a_window_more_begins_where_one_is_full(count: int, windows: int) -> None:
    assert count_windows(words, ["a " * count, "a"], 4) == [windows, 1]


def test_no_prompts_fill_nothing() -> None:
    assert count_windows(words, [], 4) == []


def test_a_prompt_is_refused_from_the_first_token_on_that_would_be_cut() -> None:
    read_whole(words, "a b c", 4)
    with pytest.raises(ValueError, match=r"'a b c d' has 5 tokens, and 4 are read of it"):
        read_whole(words, "a b c d", 4)
