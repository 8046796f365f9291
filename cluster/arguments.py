"""Command lines whose refusals read like every other error: one line on stderr that begins with `error:`, status 1."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from cluster.config import Config, ConfigError, load_words
from cluster.text import shown


class Parser(argparse.ArgumentParser):
    """A parser of arguments.

    Args:
        module: What is run, as `python -m` takes it.
        description: What it does.
    """

    def __init__(self, module: str, description: str) -> None:
        form = argparse.RawDescriptionHelpFormatter
        super().__init__(prog=f"python -m {module}", description=description, formatter_class=form)

    def add_settings(self) -> None:
        """Take a config file and settings, as `settings`; see `load_words`."""
        words = "[config.yaml] [key=value ...]"
        self.add_argument("settings", nargs="*", metavar=words, help="a config file, then settings")

    def error(self, message: str) -> NoReturn:
        """End the process with a sentence."""
        self.exit(1, f"error: {shown(message)}; {self.prog} --help says what there is.\n")


def benchmark_config(module: str, description: str | None, arguments: Sequence[str], *overrides: str) -> Config:
    """The configuration of a benchmark that takes nothing else; what it refuses ends the process with a sentence."""
    parser = Parser(module, description or "")
    parser.add_settings()
    try:
        return load_words([*parser.parse_args(arguments).settings, *overrides])
    except ConfigError as error:
        parser.exit(1, f"error: {shown(str(error))}\n")
