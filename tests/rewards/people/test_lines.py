"""JSON lines: whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rewards.people.lines import Damaged, InUse, Journal, NotKept, read_lines


def test_what_is_appended_is_read_also_from_the_middle(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines.jsonl"
    assert read_lines(path) == ([], 0)
    with Journal(path) as journal:
        journal.append({"a": "ü \u2028 \ud800"})
        first, position = read_lines(path)
        journal.append({"b": 1}, {"c": None})
    assert first == [{"a": "ü \u2028 \ud800"}]
    assert read_lines(path, position) == ([{"b": 1}, {"c": None}], path.stat().st_size)


def test_a_torn_last_line_is_no_line_and_is_cut_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a":1}\n{"b":')
    assert read_lines(path) == ([{"a": 1}], 8)
    with Journal(path) as journal:
        assert journal.records == [{"a": 1}]
        assert path.read_bytes() == b'{"a":1}\n'
        journal.append({"c": 2})
    assert path.read_bytes() == b'{"a":1}\n{"c":2}\n'


def test_a_line_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a":1}\n[2]\n{"c":3}\n')
    with pytest.raises(Damaged, match=r"at byte 8: the line there is no JSON object"):
        Journal(path)
    path.write_bytes(b'{"a":1}\n')
    Journal(path).close()  # the lock went with the one that was refused


def test_there_is_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with Journal(path), pytest.raises(InUse, match="Another process writes to"):
        Journal(path)
    Journal(path).close()


@pytest.mark.parametrize("fails", ["write", "half", "fsync", "and cannot cut"])
def test_a_full_disk_leaves_nothing_of_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    path = tmp_path / "lines.jsonl"
    write = os.write

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half(descriptor: int, data: memoryview) -> int:
        return write(descriptor, data[:5]) if len(data) > 15 else full()

    with Journal(path) as journal:
        journal.append({"a": 1})
        with monkeypatch.context() as broken:
            broken.setattr(os, "fsync" if fails == "fsync" else "write", full if fails in ("write", "fsync") else half)
            if fails == "and cannot cut":
                broken.setattr(os, "ftruncate", full)
            with pytest.raises(NotKept, match=r"cannot be written to \(No space left on device\)"):
                journal.append({"b": "something long"})
        assert read_lines(path)[0] == [{"a": 1}]
        journal.append({"c": 3})
    assert path.read_bytes() == b'{"a":1}\n{"c":3}\n'
