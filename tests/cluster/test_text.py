"""Text for a terminal: nothing in it is obeyed, and nothing is lost."""

from __future__ import annotations

import io
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from cluster.text import ShownFormatter, counted, figure, is_control, shown


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


@pytest.mark.parametrize("name", ["[bold]x[/]", "[/]", "\x1b[31mred", "bell\x07"])
def test_a_log_shows_what_others_wrote(name: str) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200, color_system="truecolor")
    handler = RichHandler(console=console, show_path=False)
    handler.setFormatter(ShownFormatter("%(message)s"))
    handler.emit(logging.LogRecord("x", logging.WARNING, "", 0, "%s failed:\n%s", ("the reward", name), None))
    written = Text.from_ansi(console.file.getvalue()).plain  # type: ignore[attr-defined]
    assert shown(name) in written
    assert len(written.splitlines()) == 2


@pytest.mark.parametrize(
    ("value", "seen"), [(0.0, "0.000"), (0.5, "0.500"), (-12.3456, "-12.346"), (1e-5, "1e-05"), (3e9, "3e+09")]
)
def test_a_figure_says_something_at_any_size(value: float, seen: str) -> None:
    assert figure(value) == seen


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 images"), (1, "1 image"), (2, "2 images"), (1344, "1,344 images")]
)
def test_numbers_of_things(number: int, words: str) -> None:
    assert counted(number, "image") == words
