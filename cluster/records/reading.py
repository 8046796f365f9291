"""The run directory: everything that a run leaves behind, readable while it goes on, by processes without Ray or torch.

    config.yaml, prompts/          what it was given, see cluster.records.given
    metrics.parquet/               one part an iteration: iteration, name, value, time
    samples.parquet/               one part an iteration: split, prompt, seed, version, every reward
    timeline.parquet/              one part an iteration: who worked at what, from when, for how long
    origin.jsonl                   a line a start of the run: its command, versions and machines
    pretrained.npz                 image features of the first evaluation, which distances are measured from
    images/                        grids of fixed prompts and seeds, by iteration
    tensorboard/                   the same figures and grids as event files
    checkpoints/, best/            see learner.checkpoint; the newest, and that of the best evaluation
    warnings.jsonl                 what the run was warned of, see cluster.records.warned
    loggers.json                   ids of the run with other loggers, see cluster.records.loggers
    report.html
    driver.lock                    held by the driver while it lives, see cluster.records.lock
    error.log                      the traceback of what no one expected

Every file but TensorBoard's logs is replaced whole, so a reader never sees half of one.
"""

from __future__ import annotations

import logging
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cluster.records import warned
from cluster.records.origin import read_starts
from cluster.records.parts import Parts
from cluster.records.timeline import TIMELINE, Span

log = logging.getLogger(__name__)
CONFIG, PROMPTS = "config.yaml", "prompts"
METRICS = pa.schema({"iteration": pa.int64(), "name": pa.string(), "value": pa.float64(), "time": pa.float64()})


class Records:
    """Reads a run's records, whether it is finished, under way or broken.

    Args:
        path: The run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._metrics, self._samples = Parts(path / "metrics.parquet"), Parts(path / "samples.parquet")
        self._timeline = Parts(path / "timeline.parquet")

    @property
    def begun(self) -> bool:
        """Whether there is something to continue."""
        return (self.path / CONFIG).exists()

    @property
    def checkpoints(self) -> Path:
        """Where the learner keeps its checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """Where it keeps that of the best evaluation."""
        return self.path / "best"

    def evaluations(self) -> list[int]:
        """The iterations whose evaluation is on record, in order."""
        return sorted({i for name, values in self.metrics().items() if name.startswith("eval/") for i, _ in values})

    def records_of(self, iteration: int) -> tuple[dict[str, float], pa.Table] | None:
        """The metrics of an iteration and its rows of `samples.parquet`; `None` where either is not there whole."""
        metrics, samples = self._metrics.part(iteration), self._samples.part(iteration)
        if metrics is None or samples is None:
            return None
        return dict(zip(metrics["name"].to_pylist(), metrics["value"].to_pylist(), strict=True)), samples

    def evaluated(self, iteration: int) -> bool:
        """Whether an iteration's evaluation is on record."""
        table = self._metrics.part(iteration)
        return table is not None and any(name.startswith("eval/") for name in table["name"].to_pylist())

    def metrics(self) -> dict[str, list[tuple[int, float]]]:
        """All metrics so far: (iteration, value) by name, in order; a torn part costs a warning."""
        tables = self._metrics.read()
        whole = [table for table in tables if table.schema.equals(METRICS)]
        if len(whole) < len(tables):
            log.warning("A part of %s holds something else than metrics and was passed over.", self._metrics.folder)
        rows = pa.concat_tables(whole) if whole else METRICS.empty_table()
        columns = (rows[name].to_pylist() for name in ("iteration", "name", "value"))
        series: dict[str, list[tuple[int, float]]] = {}
        for iteration, name, value in zip(*columns, strict=True):
            series.setdefault(name, []).append((iteration, value))
        return series

    def latest(self) -> tuple[int, dict[str, float]]:
        """The last iteration on record and its metrics, of which nothing before is read; 0 where there is none."""
        tables = self._metrics.read(1)
        if not tables or not tables[0].schema.equals(METRICS):
            return 0, {}
        numbers, names, values = (tables[0][name].to_pylist() for name in ("iteration", "name", "value"))
        return max(numbers), dict(zip(names, values, strict=True))

    def samples(self, iteration: int) -> list[dict[str, Any]]:
        """The samples of an iteration, a record an image; of other iterations nothing is read."""
        table = self._samples.part(iteration)
        return [] if table is None else table.to_pylist()

    def timeline(self, last: int) -> list[tuple[int, Span]]:
        """Who worked when, with the iteration, in the last so many of those on record."""
        found = []
        for table in self._timeline.read(last):
            if table.schema.equals(TIMELINE):
                columns = (table[name].to_pylist() for name in TIMELINE.names)
                found += [(iteration, Span(*of)) for iteration, *of in zip(*columns, strict=True)]
        return found

    def warnings(self) -> list[dict[str, Any]]:
        """What the run was warned of: `iteration`, `rule` and `sentence`; the oldest first."""
        return [asdict(one) for one in warned.read(self.path)]

    def starts(self) -> list[dict[str, Any]]:
        """Each time that the run was started: `time`, `command`, `versions`, `machines`."""
        return read_starts(self.path)

    def pretrained(self) -> dict[str, np.ndarray] | None:
        """What `write_pretrained` kept, if it did; a torn file costs a warning."""
        path = self.path / "pretrained.npz"
        try:
            return dict(np.load(path))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read (%s), so no more distances are measured from it.", path, error)
            return None
