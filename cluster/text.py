"""Text that others wrote: decoded, cut into lines, and made fit for a terminal; figures for people."""

from __future__ import annotations

import logging
import re
import unicodedata

# Characters that turn the direction of what follows; they can make a line read as something else than it is.
_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
_MARKS = {  # the longer ones first: UTF-16's is the beginning of UTF-32's
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def decode(data: bytes) -> str:
    """The text of UTF-8, with or without a byte order mark.

    Raises:
        ValueError: If it is something else; says where, what it may be and how to convert it.
    """
    for mark, name in _MARKS.items():
        if data.startswith(mark):
            raise ValueError(f"it is {name}, not UTF-8; save it as UTF-8, or convert it: iconv -f {name} -t UTF-8")
    for name, half in (("UTF-16LE", data[1::2]), ("UTF-16BE", data[::2])):
        if half.count(0) * 2 > len(half):  # what letters of ours have there
            raise ValueError(f"it looks like {name}, not UTF-8; convert it: iconv -f {name} -t UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = len(lines(data[: error.start].decode()))
        raise ValueError(
            f"line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); if it is Latin-1 or Windows-1252, convert it: "
            "iconv -f WINDOWS-1252 -t UTF-8"
        ) from error


def lines(text: str) -> list[str]:
    """The lines of a text, which end at `\\n`, `\\r\\n` and `\\r` alone: U+2028 and its like are characters."""
    return re.split(r"\r\n|\r|\n", text)


def shown(text: str) -> str:
    """The text in one line, with what a terminal would obey (escape sequences, line ends, ...) written as `\\x1b`.

    Markup of rich is another matter: print with `markup=False`.
    """
    return "".join(char.encode("unicode_escape").decode() if is_control(char) else char for char in text)


class ShownFormatter(logging.Formatter):
    """Log records whose lines are `shown`."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(shown, super().format(record).split("\n")))


def is_control(char: str) -> bool:
    """Whether a character is an instruction to whoever shows it: a control, a line separator, half of a pair, ..."""
    return unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} or unicodedata.bidirectional(char) in _DIRECTIONS


def figure(value: float) -> str:
    """A figure with three decimals, or three digits where those say nothing."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1e6 else f"{value:.3g}"


def counted(number: int, noun: str) -> str:
    """A number of things, such as `1 image` and `1,344 images`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
