"""Command lines whose refusals read like every other error: one line on stderr that begins with `error:`, status 1.

Here, because every package that has commands may import this one.
"""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser of arguments.

    Args:
        module: What is run, as `python -m` takes it.
        description: What it does.
    """

    def __init__(self, module: str, description: str) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"python -m {module}", description=description, formatter_class=form)

    def error(self, message: str) -> NoReturn:
        """End the process with a sentence."""
        self.exit(1, f"error: {one_line(message)}; {self.prog} --help says what there is.\n")


def positive(text: str) -> int:
    """The `type` of an argument that is a number of things, of which there is one at least."""
    if not (text.isascii() and text.isdigit() and 0 < len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a whole number from 1 to 999,999,999")
    return int(text)


def positive_number(text: str) -> float:
    """The `type` of an argument that is a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number above 0")
    return value


def share(text: str) -> float:
    """The `type` of an argument that is a share of something, from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not a number from 0 to 1")
    return value


def one_line(text: object) -> str:
    """What was said, on one line, with what a terminal would obey written out."""
    line = " ".join(str(text).split())
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in line)
