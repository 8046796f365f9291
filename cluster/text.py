"""Text that others wrote, made fit for a terminal."""

from __future__ import annotations

import unicodedata

# Characters that turn the direction of what follows; they can make a line read as something else than it is.
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def shown(text: str) -> str:
    """The text in one line, with what a terminal would obey (escape sequences, line ends, ...) written as `\\x1b`.

    Markup of rich is another matter: print with `markup=False`.
    """
    return "".join(char.encode("unicode_escape").decode() if is_control(char) else char for char in text)


def is_control(char: str) -> bool:
    """Whether a character is an instruction to whoever shows it: a control, a line separator, half of a pair, ..."""
    return unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(char) in _DIRECTIONS
