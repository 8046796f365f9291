"""Data sets that are written while others read them: every listed part opens, and damage costs a warning."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.records.parts import Parts

WRITE = """
import pathlib, sys
import pyarrow as pa
from cluster.records.parts import Parts

parts = Parts(pathlib.Path(sys.argv[1]))
print("writing", flush=True)
while True:
    for iteration in range(3, 30):
        parts.write(iteration, pa.table({"iteration": [iteration] * 3, "value": [float(iteration)] * 3}))
    parts.rewind(2)
"""


def table(iteration: int, value: float = 0.0) -> pa.Table:
    return pa.table({"iteration": [iteration], "value": [value]})


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """Iterations 0 to 3."""
    parts = Parts(tmp_path / "set.parquet")
    for iteration in range(4):
        parts.write(iteration, table(iteration, float(iteration)))
    return parts


def iterations(parts: Parts) -> list[int]:
    return [row["iteration"] for found in parts.read() for row in found.to_pylist()]


def test_a_reader_never_fails_while_another_process_writes_and_rewinds(parts: Parts) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(parts.folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "writing\n"
        deadline, read = time.monotonic() + 2.0, 0
        while time.monotonic() < deadline or read < 5:
            assert iterations(parts)[:3] == [0, 1, 2]
            for frame in (pandas.read_parquet(parts.folder), pq.read_table(parts.folder).to_pandas()):
                assert set(frame["iteration"]) >= {0, 1, 2}
                assert (frame["value"][frame["iteration"] > 2] == frame["iteration"][frame["iteration"] > 2]).all()
            read += 1
        assert writer.poll() is None
    finally:
        writer.kill()
        writer.wait()


def test_a_part_that_was_listed_opens_after_a_rewind(parts: Parts) -> None:
    listed = pq.ParquetDataset(parts.folder)
    parts.rewind(1)
    assert listed.read()["iteration"].to_pylist() == [0, 1]


def test_what_is_forgotten_is_not_read_until_it_is_written_again(parts: Parts) -> None:
    parts.rewind(1)
    assert iterations(parts) == [0, 1]
    assert parts.part(2) is None
    parts.write(2, table(2))
    assert iterations(parts) == [0, 1, 2]
    parts.add(3, table(3), "iteration")
    assert iterations(parts) == [0, 1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1 half a file", None])
def test_a_torn_part_costs_a_warning(parts: Parts, caplog: pytest.LogCaptureFixture, content: bytes | None) -> None:
    path = parts.folder / "000002.parquet"
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    with caplog.at_level(logging.WARNING):
        assert iterations(parts) == [0, 1, 3]
        assert parts.part(2) is None
    assert str(path) in caplog.text


def test_a_rewind_removes_torn_parts_that_other_readers_would_fail_on(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    (parts.folder / "000001.parquet").write_bytes(b"PAR1 half a file")
    with caplog.at_level(logging.WARNING):
        parts.rewind(2)
    assert "000001.parquet is torn and was removed" in caplog.text
    assert sorted(pandas.read_parquet(parts.folder)["iteration"]) == [0, 2]


def test_adding_to_a_torn_part_replaces_it(parts: Parts) -> None:
    (parts.folder / "000001.parquet").write_bytes(b"torn")
    parts.add(1, table(1, 9.0), "iteration")
    assert parts.read()[1].to_pylist() == [{"iteration": 1, "value": 9.0}]


def test_strange_names_are_no_parts(parts: Parts) -> None:
    for name in ("notes.parquet", ".000009.parquet", "000003 (copy).parquet", "²³.parquet"):
        (parts.folder / name).write_bytes(b"")
    assert iterations(parts) == [0, 1, 2, 3]


def test_a_data_set_that_is_not_there_is_empty(tmp_path: Path) -> None:
    parts = Parts(tmp_path / "missing.parquet")
    parts.rewind(0)
    assert parts.read() == []
    assert not parts.folder.exists()


def test_the_last_parts_are_read_alone(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    (parts.folder / "000000.parquet").write_bytes(b"torn, and nobody looks")
    assert [t["iteration"][0].as_py() for t in parts.read(2)] == [2, 3]
    assert [t["iteration"][0].as_py() for t in parts.read(99)] == [1, 2, 3]
