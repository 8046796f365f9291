"""Running the cells of a grid: each is a `cluster.local` of its own, begun, continued or passed over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.methods.grid import Cell
from cluster.config import Config
from cluster.errors import ConfigError
from cluster.prompts import locate
from cluster.records import given
from cluster.records.reading import Records

_SECONDS = 0.5  # between two looks


def is_finished(cell: Cell) -> bool:
    """Whether a cell has done all of its iterations and was evaluated after them."""
    return Records(cell.run).evaluated(cell.config.iterations)


def check_same(cell: Cell) -> None:
    """Refuse to go on with a run of other settings than the grid's.

    Raises:
        ConfigError: If that is what is in the cell's folder.
    """
    if not Records(cell.run).begun:
        return
    before, now = (_settings(config) for config in (given.read(cell.run), cell.config))
    if before != now:
        keys = (key for key in now | before if before.get(key) != now.get(key))
        other = next(f"{key}={before.get(key)} and not {now.get(key)}" for key in keys)
        raise ConfigError(
            f"{cell.run} was run with other settings than the grid's ({other}); move it away, or set another --folder."
        )


def _settings(config: Config) -> dict[str, object]:
    """What decides what is learned, by dotted names; of prompts, which runs copy, the file's name."""
    found = _dotted(config.model_dump(mode="json", exclude={"name", "folder"}))
    named = {key: str(value) for key in ("prompts.train", "prompts.held_out") if (value := found[key]) is not None}
    return found | {key: locate(source).name for key, source in named.items()}


def _dotted(settings: Mapping[str, Any], before: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in settings.items():
        found |= _dotted(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return found


def log_of(cell: Cell) -> Path:
    """What a cell's runs have said, the last one's alone."""
    return cell.run.with_suffix(".log")


def failure(cell: Cell) -> str | None:
    """The sentence with which a cell's last run failed; `None` if it did not."""
    try:
        lines = log_of(cell).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said and not is_finished(cell) else None


def run_all(cells: Sequence[Cell], jobs: int) -> None:
    """Run what is not finished, so many at a time; a cell that fails keeps nobody else from running.

    However this ends, the runs that it has started are told to, and write a checkpoint.

    Args:
        cells: All of them; finished ones are passed over.
        jobs: How many at a time; of several, each has one thread.
    """
    waiting, running = [cell for cell in cells if not is_finished(cell)], dict[str, tuple[Cell, subprocess.Popen]]()
    whole = sum(cell.config.iterations for cell in cells)
    with tqdm(total=whole, unit="iteration", disable=None, smoothing=0.02) as bar:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    cell = waiting.pop(0)
                    running[cell.name] = cell, _start(cell, jobs)
                bar.set_postfix_str(", ".join(running), refresh=False)
                bar.update(sum(map(_done, cells)) - bar.n)
                time.sleep(_SECONDS)
                for name, (cell, process) in list(running.items()):
                    if process.poll() is not None:
                        del running[name]
                        if process.returncode:
                            bar.write(f"{name} failed: {failure(cell) or f'status {process.returncode}'}", sys.stderr)
                        elif bar.disable:
                            print(f"{name} is finished", flush=True)
            bar.update(sum(map(_done, cells)) - bar.n)
        finally:
            for _, process in running.values():
                process.send_signal(signal.SIGINT)
            for _, process in running.values():
                process.wait()


def _start(cell: Cell, jobs: int) -> subprocess.Popen:
    """Begin a cell, or go on with it; in a group of its own, so that Ctrl-C reaches it through us, and once."""
    words = ["--resume", str(cell.run)] if Records(cell.run).begun else list(cell.words)
    environment = os.environ | {"RAY_worker_niceness": "0"} | ({"OMP_NUM_THREADS": "1"} if jobs > 1 else {})
    log_of(cell).parent.mkdir(parents=True, exist_ok=True)
    with log_of(cell).open("w") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "cluster.local", *words],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip


def _done(cell: Cell) -> int:
    """Iterations on record; the part of the evaluation before them is none."""
    return max(0, len(list((cell.run / "metrics.parquet").glob("*.parquet"))) - 1)
