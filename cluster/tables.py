"""Tables in files: CSV and Parquet, as a record a row."""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa
from pyarrow import csv, parquet

from cluster.text import decode

Table = Literal["csv", "parquet"]
_TEXTS = ("prompt", "image")  # columns that are never numbers


def read_table(data: bytes, kind: Table) -> list[dict[str, Any]]:
    """The rows of a table; a cell that is empty is not there.

    Args:
        data: The file.
        kind: What it is. CSV has the columns' names in its first line, and numbers are read as such.

    Raises:
        ValueError: If it is no such table, or two columns share their name; goes on from the file's name.
    """
    try:
        table = _csv(decode(data)) if kind == "csv" else parquet.read_table(pa.BufferReader(data))
    except pa.ArrowException as error:
        raise ValueError(f"it is no table ({' '.join(str(error).split())[:300]})") from error
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"it has several columns {twice[0]!r}")
    if "prompt" not in names:
        raise ValueError(f"it has no column 'prompt', but {', '.join(map(repr, names[:8])) or 'none'}")
    return [{name: value for name, value in row.items() if value is not None} for row in table.to_pylist()]


def _csv(text: str) -> pa.Table:
    return csv.read_csv(
        pa.BufferReader(text.encode()),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=dict.fromkeys(_TEXTS, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
