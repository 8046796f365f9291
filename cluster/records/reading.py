"""The run directory: everything that a run leaves behind, readable while it goes on, by processes without Ray or torch.

    config.yaml, prompts/          what it was given, see cluster.records.given
    metrics.parquet/               one part an iteration: iteration, name, value, time
    samples.parquet/               one part an iteration: split, prompt, seed, version, every reward
    pretrained.npz                 image features of the first evaluation, which distances are measured from
    images/                        grids of fixed prompts and seeds, by iteration
    tensorboard/                   the same figures and grids as event files
    checkpoints/, best/            see learner.checkpoint; the newest, and that of the best evaluation
    warnings.jsonl                 what the guard warned of, see cluster.records.warned
    loggers.json                   ids of the run with other loggers, see cluster.records.loggers
    report.html
    driver.lock                    held by the driver while it lives, see cluster.records.lock
    error.log                      the traceback of what no one expected

Every file but TensorBoard's logs is replaced whole, so a reader never sees half of one.
"""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.records.parts import Parts

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
        series: dict[str, list[tuple[int, float]]] = {}
        for table in self._metrics.read():
            if not table.schema.equals(METRICS):
                log.warning("A part of %s holds something else than metrics and was passed over.", self._metrics.folder)
                continue
            for row in table.to_pylist():
                series.setdefault(row["name"], []).append((row["iteration"], row["value"]))
        return series

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
