"""The command line of a run in this process: how far it gets, without Ray and without actors."""

from __future__ import annotations

from typing import Any, NoReturn

import cluster.run
from cluster.config import Config


class Placed(BaseException):
    """The run got as far as starting Ray; no `Exception`, which the command would put into a sentence."""


def place(config: Config) -> NoReturn:
    raise Placed


def main(*arguments: str, place: Any = place) -> int:
    return cluster.run.main("python -m cluster.local", "Train.", place, arguments)


def interrupt(config: Config) -> NoReturn:
    raise KeyboardInterrupt
