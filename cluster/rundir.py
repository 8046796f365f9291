"""The run directory: everything that a run leaves behind, readable while it goes on.

    config.yaml                    the resolved configuration
    metrics.parquet/               one part an iteration: iteration, name, value, time
    samples.parquet/               one part an iteration: split, prompt, seed, version, every reward
    pretrained.npz                 image features of the first evaluation, which distances are measured from
    images/                        grids of fixed prompts and seeds, by iteration
    tensorboard/                   the same figures and grids as event files
    checkpoints/                   see learner.checkpoint
    report.html

Parquet data sets are folders of immutable parts, so a reader never sees half a file: `pandas.read_parquet` and
`pyarrow.parquet.read_table` take the folder.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cluster.config import Config, ConfigError
from cluster.rollouts import Rollout
from cluster.tensorboard import EventFile


class RunDirectory:
    """Writes a run's records.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.furthest = -1  # iteration that this process has recorded
        self._purge: int | None = None  # first step that TensorBoard is to forget
        self._events: EventFile | None = None

    @classmethod
    def create(cls, config: Config) -> RunDirectory:
        """Make the folder of a new run.

        Raises:
            ConfigError: If a run of that name is there already.
        """
        name = config.name or f"{config.objective.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        path = Path(config.folder) / name
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            raise ConfigError(
                f"{path} exists already; continue it with --resume {path}, or set another name."
            ) from None
        except OSError as error:
            raise ConfigError(f"The run folder {path} cannot be made ({error.strerror}).") from error
        config.save(path / "config.yaml")
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Where the learner keeps its checkpoints."""
        return self.path / "checkpoints"

    def rewind(self, iteration: int) -> None:
        """Forget all records after an iteration: a resumed run writes them again."""
        for part in self.path.glob("*.parquet/*.parquet"):
            if int(part.stem) > iteration:
                part.unlink()
        self._purge = iteration + 1

    def evaluated(self, iteration: int) -> bool:
        """Whether an iteration's evaluation is on record."""
        part = self._part("metrics", iteration)
        return part.is_file() and any(name.startswith("eval/") for name in _read(part)["name"].to_pylist())

    def record(self, iteration: int, metrics: Mapping[str, float], splits: Mapping[str, Sequence[Rollout]]) -> None:
        """Record an iteration: its metrics, and its samples by split. Replaces what may have been recorded before."""
        self._write("samples", iteration, _samples(iteration, splits))
        self._write("metrics", iteration, _metrics(iteration, metrics))
        self._event_file.scalars(iteration, metrics)
        self.furthest = max(self.furthest, iteration)

    def add(self, iteration: int, metrics: Mapping[str, float], splits: Mapping[str, Sequence[Rollout]]) -> None:
        """Record more of an iteration: metrics and splits of other names stay as they are."""
        for data_set, column, table in (
            ("samples", "split", _samples(iteration, splits)),
            ("metrics", "name", _metrics(iteration, metrics)),
        ):
            part = self._part(data_set, iteration)
            if part.is_file():
                before, new = _read(part), set(table[column].to_pylist())
                others = [value not in new for value in before[column].to_pylist()]
                table = pa.concat_tables(
                    [before.filter(pa.array(others, pa.bool_())), table], promote_options="default"
                )
            self._write(data_set, iteration, table)
        self._event_file.scalars(iteration, metrics)

    def metrics(self) -> dict[str, list[tuple[int, float]]]:
        """All metrics so far: (iteration, value) by name, in order."""
        table = pq.read_table(self.path / "metrics.parquet").sort_by("iteration")
        series: dict[str, list[tuple[int, float]]] = {}
        for row in table.to_pylist():
            series.setdefault(row["name"], []).append((row["iteration"], row["value"]))
        return series

    def write_pretrained(self, features: Mapping[str, np.ndarray]) -> None:
        """Keep the image features of the first evaluation, by split."""
        temporary = self.path / f".pretrained.{os.getpid()}.npz"
        np.savez(temporary, allow_pickle=False, **features)
        temporary.replace(self.path / "pretrained.npz")

    def pretrained(self) -> dict[str, np.ndarray] | None:
        """What `write_pretrained` kept, if it did."""
        path = self.path / "pretrained.npz"
        return dict(np.load(path)) if path.is_file() else None

    def write_image(self, name: str, image: Image.Image) -> None:
        """Write `images/<name>.png`."""
        path = self.path / "images" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        image.save(path)

    def write_grid(self, split: str, iteration: int, grid: Image.Image) -> None:
        """Write the image grid of an evaluation."""
        self.write_image(f"{split}-{iteration:06d}", grid)
        self._event_file.image(iteration, split, grid)

    @property
    def _event_file(self) -> EventFile:
        # Made when there is something to write: those who only read a run leave no file behind.
        if self._events is None:
            self._events = EventFile(self.path / "tensorboard", self._purge)
        return self._events

    def _part(self, data_set: str, iteration: int) -> Path:
        return self.path / f"{data_set}.parquet" / f"{iteration:06d}.parquet"

    def _write(self, data_set: str, iteration: int, table: pa.Table) -> None:
        part = self._part(data_set, iteration)
        part.parent.mkdir(exist_ok=True)
        temporary = part.with_name(f".{iteration:06d}.{os.getpid()}")
        pq.write_table(table, temporary)
        temporary.replace(part)


def _read(part: Path) -> pa.Table:
    return pq.ParquetFile(part).read()  # a path may hold a `=`, which `read_table` would take for a partition


def _metrics(iteration: int, metrics: Mapping[str, float]) -> pa.Table:
    now = time.time()
    rows = [{"iteration": iteration, "name": n, "value": float(v), "time": now} for n, v in metrics.items()]
    return pa.Table.from_pylist(rows)


def _samples(iteration: int, splits: Mapping[str, Sequence[Rollout]]) -> pa.Table:
    columns: dict[str, list] = defaultdict(list)
    for split, rollouts in splits.items():
        for rollout in rollouts:
            request = rollout.request
            size = len(request.prompts)
            columns["iteration"] += [iteration] * size
            columns["split"] += [split] * size
            columns["prompt"] += request.prompts
            columns["prompt_index"] += request.prompt_index
            columns["sample_index"] += request.sample_index
            columns["seed"] += [request.seed] * size
            columns["version"] += [rollout.version] * size
            for name, values in rollout.scores.items():
                columns[name] += values.tolist()
    return pa.table(columns)
