"""Where a run comes from: every start is kept; lines that are broken are passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import WriteError
from cluster.records.origin import json_lines, note_start, read_starts
from cluster.records.reading import Records


def test_every_start_is_kept_in_order(tmp_path: Path) -> None:
    assert read_starts(tmp_path) == []
    note_start(tmp_path, ["python", "-m", "cluster.local", "seed=1"], [{"cpus": 2}])
    note_start(tmp_path, ["python", "-m", "cluster.local", "--resume", "x"], [])
    with (tmp_path / "origin.jsonl").open("a") as file:
        file.write('{"time": 3, "comm')  # a line that is being written
    first, second = Records(tmp_path).starts()
    assert (first["command"][-1], first["machines"], second["command"][-1]) == ("seed=1", [{"cpus": 2}], "x")
    assert first["versions"].keys() >= {"python", "torch", "ray", "diffusers"}
    assert first["time"] <= second["time"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="missing cannot be written to"):
        note_start(tmp_path / "missing", [], [])


def test_lines_that_are_no_objects_are_passed_over() -> None:
    assert json_lines('{"a": 1}\n[2]\nnull\n\n{"a": \n{"a": 3}') == [{"a": 1}, {"a": 3}]
    assert json_lines("[" * 100_000) == []


def test_warnings_are_read_as_they_are_written(tmp_path: Path) -> None:
    assert Records(tmp_path).warnings() == []
    lines = '{"iteration": 3, "sentence": "Gold falls.", "rule": "gold"}\n{"iteration": 4}\n{"sentence": 5}\nbroken\n'
    (tmp_path / "warnings.jsonl").write_text(lines)
    assert Records(tmp_path).warnings() == [{"iteration": 3, "sentence": "Gold falls.", "rule": "gold", "figure": None}]
