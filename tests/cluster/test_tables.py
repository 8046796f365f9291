"""Prompts in tables: the same as in JSON lines, with the types that rewards expect, and sentences for the rest."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv, parquet

from cluster.prompts import read_prompts

ROWS: list[dict[str, Any]] = [
    {"prompt": 'a "sign", open', "count": 3, "text": "open"},
    {"prompt": "two\nlines, café", "count": 5, "text": "007 shops"},
    {"prompt": "7"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A table or JSON lines, by the file's name."""
    table = pa.table({name: [row.get(name) for row in rows] for name in {n: 0 for row in rows for n in row}})
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    elif path.suffix == ".csv":
        csv.write_csv(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["p.csv", "p.parquet", "p.CSV", "p.jsonl"])
def test_a_table_is_read_as_json_lines_are(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write(tmp_path / name.lower(), ROWS).rename(path)
    prompts = read_prompts(str(path))
    assert [{"prompt": str(prompt), **prompt.metadata} for prompt in prompts] == ROWS
    assert [type(prompt.metadata.get("count")) for prompt in prompts] == [int, int, type(None)]


def test_identifiers_in_csv_keep_their_zeros(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(
        'prompt,id,quoted,long,n,share,text\na,007,"0012",1234567890123456789012,3,0.5,\nb,12,7,5,0,0,02\n'
    )
    first, second = read_prompts(str(tmp_path / "p.csv"))
    assert first.metadata == {"id": "007", "quoted": "0012", "long": "1234567890123456789012", "n": 3, "share": 0.5}
    assert second.metadata == {"id": "12", "quoted": "7", "long": "5", "n": 0, "share": 0.0, "text": "02"}


def test_parquet_keeps_lists_and_objects(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "boxes": [[1, 2], [3, 4]], "asked": {"colour": "red"}}]
    (prompt,) = read_prompts(str(write(tmp_path / "p.parquet", rows)))
    assert dict(prompt.metadata) == {"boxes": [[1, 2], [3, 4]], "asked": {"colour": "red"}}


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(TEXTS.filter(str.strip), st.integers(-(2**40), 2**40)), min_size=1, max_size=5))
def test_any_texts_come_back_from_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, int]]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.csv"
    write(path, [{"prompt": text, "n": number} for text, number in rows])
    assert [(str(p), p.metadata["n"]) for p in read_prompts(str(path))] == [(t.strip(), n) for t, n in rows]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["p.csv cannot be read", "no table"]),
        (b"text,n\na,1\n", ["no column 'prompt', but 'text', 'n'"]),
        (b"prompt,n,n\na,1,2\n", ["several columns 'n'"]),
        (b"prompt,n\na,1\nb\n", ["no table", "Expected 2 columns, got 1"]),
        (b"prompt,n\na,1\n  ,2\n", ["row 2", "'prompt'"]),
        (b"prompt,n\n,1\n", ["row 1", "'prompt'"]),
        ("prompt\nun café\n".encode("latin-1"), ["line 2", "iconv"]),
        (b"prompt\na\x07b\n", ["row 1", r"'\x07'"]),
        (b"prompt,n\n", ["holds no prompt"]),
        (b"prompt,strength\na,0.5\n", ["row 1", "the image None is no text"]),
        (b'prompt\n"a\nb\nc\n', ["no table", "unexpected end of data"]),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, data: bytes, words: list[str]) -> None:
    (tmp_path / "p.csv").write_bytes(data)
    with pytest.raises(ValueError, match=r"^the prompt file [^\n]+$") as caught:
        read_prompts(str(tmp_path / "p.csv"))
    assert all(word in str(caught.value) for word in words), caught.value


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    whole = io.BytesIO()
    parquet.write_table(pa.table({"prompt": ["a"]}), whole)
    for data in (b"", b"prompt\na\n", whole.getvalue()[:-9]):
        (tmp_path / "p.parquet").write_bytes(data)
        with pytest.raises(ValueError, match="it is no table"):
            read_prompts(str(tmp_path / "p.parquet"))
    parquet.write_table(pa.table({"prompt": [f"a {n}" for n in range(5000)]}), whole := io.BytesIO())
    data = whole.getvalue()
    (tmp_path / "p.parquet").write_bytes(data[:100] + bytes(50) + data[150:])
    with pytest.raises(ValueError, match="it is no table"):
        read_prompts(str(tmp_path / "p.parquet"))
    parquet.write_table(pa.table({"prompt": ["a"], "t": pa.array([2**62], pa.duration("s"))}), tmp_path / "p.parquet")
    with pytest.raises(ValueError, match="that Python cannot"):
        read_prompts(str(tmp_path / "p.parquet"))
    write(tmp_path / "p.parquet", [{"prompt": 3}])
    with pytest.raises(ValueError, match="row 1 is neither"):
        read_prompts(str(tmp_path / "p.parquet"))
