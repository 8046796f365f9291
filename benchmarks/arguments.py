"""The command line of benchmarks that take a config file and settings, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.arguments import Parser
from cluster.config import Config, load_words
from cluster.errors import ConfigError
from cluster.text import shown


def parse_config(module: str, description: str | None, arguments: Sequence[str], *overrides: str) -> Config:
    """The configuration that a command line asks for; what is refused ends the process with a sentence.

    Args:
        module: The benchmark, as `python -m` takes it.
        description: What it does.
        arguments: Of the command line.
        overrides: Settings of the benchmark's own, which count above the user's.
    """
    parser = Parser(module, description or "")
    parser.add_settings()
    try:
        return load_words([*parser.parse_args(arguments).settings, *overrides])
    except ConfigError as error:
        parser.exit(1, f"error: {shown(str(error))}\n")
