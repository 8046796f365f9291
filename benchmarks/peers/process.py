"""A side in a process of its own, which works when it is told (`benchmarks.peers.work.answer`)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.work import Round, Work
from cluster.errors import ConfigError

ROOT = Path(__file__).parents[2]


class Process:
    """A side.

    Args:
        name: Its module in this package.
        python: The interpreter of its environment.
        work: What it does.

    Attributes:
        micro_batches: Those of which it can be told one.

    Raises:
        ConfigError: If it cannot begin; it has said why.
    """

    def __init__(self, name: str, python: Path | str, work: Work) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [str(python), "-W", "ignore", "-m", f"benchmarks.peers.{name}"],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.micro_batches: Sequence[int] = self._ask(json.dumps(asdict(work)))
        except ConfigError:
            self.close()
            raise

    def prepare(self, micro_batch: int) -> None:
        """Make the side, once, with so many transitions or pairs at a time, and its first updates, which do not count.

        Raises:
            ConfigError: If the process has ended; it has said why.
        """
        self._ask(f"prepare {micro_batch}")

    def round(self, updates: int) -> Round:
        """So many updates of a side that is prepared.

        Raises:
            ConfigError: If the process has ended; it has said why.
        """
        found = self._ask(f"round {updates}")
        return Round(**found | {"seconds": tuple(found["seconds"])})

    def train(self, seconds: float, folder: Path) -> None:
        """Train at the side's own defaults for so long, and write adapters into a folder.

        Raises:
            ConfigError: If the process has ended; it has said why.
        """
        self._ask(f"train {seconds} {folder}")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise ConfigError(f"The process of {self.name} has ended with status {self._process.wait()}.")
