"""Parquet data sets that are written while others read them: folders of immutable parts, one an iteration.

`pandas.read_parquet` and `pyarrow.parquet.read_table` take the folder. A reader lists the parts first and opens them
then, so what it has listed must stay: a part that can be read is replaced, never removed. One that is to be forgotten
becomes empty.
"""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.records.files import replacing

log = logging.getLogger(__name__)


class Parts:
    """A data set.

    Args:
        folder: Where its parts are, or will be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, iteration: int, table: pa.Table) -> None:
        """Write the part of an iteration, in the place of an earlier one.

        Raises:
            WriteError: If the folder cannot be written to.
        """
        with replacing(self._path(iteration)) as file:
            pq.write_table(table, file)

    def add(self, iteration: int, table: pa.Table, key: str) -> None:
        """Add rows to the part of an iteration, in the place of those with the same values in the column `key`.

        Raises:
            WriteError: If the folder cannot be written to.
        """
        before = self.part(iteration)
        if before is not None:
            new = set(table[key].to_pylist())
            others = pa.array([value not in new for value in before[key].to_pylist()], pa.bool_())
            table = pa.concat_tables([before.filter(others), table], promote_options="default")
        self.write(iteration, table)

    def part(self, iteration: int) -> pa.Table | None:
        """What is on record of an iteration, if anything is."""
        return _read(self._path(iteration))

    def read(self, last: int | None = None) -> list[pa.Table]:
        """The tables of all iterations that can be read, or of the last so many of those that there are, in order; torn
        ones are passed over with a warning."""
        paths = self._all()
        return [table for path in paths[-last if last else 0 :] if (table := _read(path)) is not None]

    def rewind(self, iteration: int) -> None:
        """Forget what came after an iteration, and what cannot be read."""
        for path in self._all():
            try:
                schema = pq.read_schema(path)
            except (OSError, pa.ArrowException) as error:
                log.warning("%s is torn and was removed (%s).", path, _said(error))
                path.unlink(missing_ok=True)
                continue
            if int(path.stem) > iteration:
                self.write(int(path.stem), schema.empty_table())

    def _path(self, iteration: int) -> Path:
        return self.folder / f"{iteration:06d}.parquet"

    def _all(self) -> list[Path]:
        return sorted(
            (path for path in self.folder.glob("*.parquet") if path.stem.isascii() and path.stem.isdigit()),
            key=lambda path: int(path.stem),
        )


def _read(path: Path) -> pa.Table | None:
    """A part that is there, is whole, and was not forgotten."""
    try:
        # Read whole and in this thread: parts are small, and a path may hold a `=`, which `read_table` would take for
        # a partition.
        table = pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False)
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException) as error:
        log.warning("%s is torn and was passed over (%s).", path, _said(error))
        return None
    return table if table.num_rows else None


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
