"""Text for a terminal: nothing in it is obeyed, and nothing is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.text import is_control, shown


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("a cat", "a cat"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("two\nlines\r", "two\\nlines\\r"),
        ("\u2028\x9b31m\x00", "\\u2028\\x9b31m\\x00"),
        ("right \u202eto left", "right \\u202eto left"),
        ("half \udc80", "half \\udc80"),
        ("un café ☕ 猫 👩\u200d🚀", "un café ☕ 猫 👩\u200d🚀"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text: str, seen: str) -> None:
    assert shown(text) == seen


@given(st.text(st.characters(codec=None), max_size=50))
def test_nothing_that_is_shown_is_obeyed_and_it_can_be_encoded(text: str) -> None:
    seen = shown(text)
    assert not any(map(is_control, seen))
    seen.encode()
