"""Tables in files: CSV, TSV and Parquet, as a record a row."""

from __future__ import annotations

import csv
import re
from io import StringIO
from typing import Any, Literal

import pyarrow as pa
from pyarrow import csv as pa_csv
from pyarrow import parquet

from cluster.published import NAMES, PAIR, PROMPT, prompt_name
from cluster.text import decode

Table = Literal["csv", "tsv", "parquet"]
_TEXTS = (PROMPT, *NAMES, "image")  # columns that are never numbers
_IDENTIFIER = re.compile(r"\s*[+-]?(0\d+|\d{19,})\s*", re.ASCII)  # digits that are no number's


def read_table(data: bytes, kind: Table) -> list[dict[str, Any]]:
    """The rows of a table; a cell that is empty is not there.

    Args:
        data: The file.
        kind: What it is. CSV and TSV have the columns' names in their first line, and numbers are read as such, unless
            some of their column begin with a zero that would be lost (007), or have more digits than a number keeps.

    Raises:
        ValueError: If it is no such table, or two columns share their name; goes on from the file's name.
    """
    try:
        table = _parquet(data) if kind == "parquet" else _csv(decode(data), "\t" if kind == "tsv" else ",")
    except (pa.ArrowException, OSError, csv.Error) as error:  # of damaged pages pyarrow raises OSError
        raise ValueError(f"it is no table ({' '.join(str(error).split())[:300]})") from error
    names = table.column_names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"it has several columns {twice[0]!r}")
    if prompt_name(names) is None:
        raise ValueError(f"it has no column 'prompt', but {', '.join(map(repr, names[:8])) or 'none'}")
    try:
        rows = table.to_pylist()
    except OverflowError as error:
        raise ValueError(f"it holds a date or a duration that Python cannot ({error})") from error
    return [{name: value for name, value in row.items() if value is not None} for row in rows]


def _parquet(data: bytes) -> pa.Table:
    file = parquet.ParquetFile(pa.BufferReader(data))
    names = file.schema_arrow.names
    if prompt_name(names) != "caption" or not set(PAIR) <= set(names):
        return file.read()
    captions = file.read(columns=["caption"])["caption"].combine_chunks()
    return pa.table({"caption": captions.unique()})


def _csv(text: str, between: str) -> pa.Table:
    quotes = between == ","  # a cell of TSV is as it stands; PartiPrompts has cells that begin with a quote
    rows = csv.reader(
        StringIO(text, newline=""),
        delimiter=between,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        strict=True,  # pyarrow reads on where a quote never ends
    )
    names = next(rows, [])
    texts = {name for row in rows for name, cell in zip(names, row, strict=False) if _IDENTIFIER.fullmatch(cell)}
    return pa_csv.read_csv(
        pa.BufferReader(text.encode()),
        parse_options=pa_csv.ParseOptions(
            delimiter=between, quote_char='"' if quotes else False, newlines_in_values=quotes
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys((*_TEXTS, *texts), pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
