"""Command lines of runs."""

from __future__ import annotations

from shapes import arguments


class Parser(arguments.Parser):
    """A parser of arguments, which may be a run's config file and settings."""

    def add_settings(self) -> None:
        """Take a config file and settings, as `settings`; see `cluster.config.load_words`."""
        words = "[config.yaml] [key=value ...]"
        self.add_argument("settings", nargs="*", metavar=words, help="a config file, then settings")
