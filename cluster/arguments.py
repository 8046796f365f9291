"""Command lines whose refusals read like every other error: one line on stderr that begins with `error:`, status 1."""

from __future__ import annotations

import argparse
from typing import NoReturn

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
        """Take a config file and settings, as `settings`; see `cluster.config.load_words`."""
        words = "[config.yaml] [key=value ...]"
        self.add_argument("settings", nargs="*", metavar=words, help="a config file, then settings")

    def error(self, message: str) -> NoReturn:
        """End the process with a sentence."""
        self.exit(1, f"error: {shown(message)}; {self.prog} --help says what there is.\n")
