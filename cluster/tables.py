"""Tables in files: CSV and Parquet, as a record a row."""

from __future__ import annotations

import csv
import re
from io import StringIO
from typing import Any, Literal

import pyarrow as pa
from pyarrow import csv as pa_csv
from pyarrow import parquet

from cluster.text import decode

Table = Literal["csv", "parquet"]
_TEXTS = ("prompt", "image")  # columns that are never numbers
_IDENTIFIER = re.compile(r"\s*[+-]?(0\d+|\d{19,})\s*", re.ASCII)  # digits that are no number's


def read_table(data: bytes, kind: Table) -> list[dict[str, Any]]:
    """The rows of a table; a cell that is empty is not there.

    Args:
        data: The file.
        kind: What it is. CSV has the columns' names in its first line, and numbers are read as such, unless some of
            their column begin with a zero that would be lost (007), or have more digits than a number keeps.

    Raises:
        ValueError: If it is no such table, or two columns share their name; goes on from the file's name.
    """
    try:
        table = _csv(decode(data)) if kind == "csv" else parquet.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError, csv.Error) as error:  # of damaged pages pyarrow raises OSError
        raise ValueError(f"it is no table ({' '.join(str(error).split())[:300]})") from error
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"it has several columns {twice[0]!r}")
    if "prompt" not in names:
        raise ValueError(f"it has no column 'prompt', but {', '.join(map(repr, names[:8])) or 'none'}")
    try:
        rows = table.to_pylist()
    except OverflowError as error:
        raise ValueError(f"it holds a date or a duration that Python cannot ({error})") from error
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _csv(text: str) -> pa.Table:
    rows = csv.reader(StringIO(text, newline=""), strict=True)  # pyarrow reads on where a quote never ends
    names = next(rows, [])
    texts = {name for row in rows for name, cell in zip(names, row, strict=False) if _IDENTIFIER.fullmatch(cell)}
    return pa_csv.read_csv(
        pa.BufferReader(text.encode()),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys((*_TEXTS, *texts), pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
