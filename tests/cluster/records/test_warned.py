"""The warnings on disk: there and back, and lines that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.records.guard import Warned
from cluster.records.warned import FILE, add, read, write


def test_there_and_back(tmp_path: Path) -> None:
    assert read(tmp_path) == []
    warnings = [Warned(3, "watched", "Iteration 3: “it” fell.\nTwice.", "train/it"), Warned(5, "people", "It is gone.")]
    write(tmp_path, warnings[:1])
    write(tmp_path, warnings)
    assert read(tmp_path) == warnings
    lines = (tmp_path / FILE).read_text().splitlines()
    assert [json.loads(line)["figure"] for line in lines] == ["train/it", None]
    assert json.loads(lines[1]) == {"iteration": 5, "rule": "people", "sentence": "It is gone.", "figure": None}


@pytest.mark.parametrize(("rule", "figure"), [("watched", "train/it"), ("people", None)])
def test_a_rule_warns_once_of_a_figure_in_an_iteration(tmp_path: Path, rule: str, figure: str | None) -> None:
    first, again, other, later = (
        Warned(3, rule, "Fell.", figure),
        Warned(3, rule, "Fell more.", figure),
        Warned(3, rule, "Fell.", "held_out/it"),
        Warned(4, rule, "Fell.", figure),
    )
    assert [add(tmp_path, one) for one in (first, again, other, later)] == [True, False, True, True]
    assert read(tmp_path) == [first, other, later]


def test_a_line_that_is_older_than_figures_stands_for_all_of_its_rule(tmp_path: Path) -> None:
    old = {"iteration": 3, "rule": "watched", "sentence": "Iteration 3: it fell."}
    (tmp_path / FILE).write_text(json.dumps(old) + "\n")
    assert not add(tmp_path, Warned(3, "watched", "Iteration 3: it fell.", "train/it"))
    assert read(tmp_path) == [Warned(**old)]  # type: ignore[arg-type]
    assert add(tmp_path, Warned(3, "diversity", "Fell.", "train/diversity"))
    assert add(tmp_path, Warned(4, "watched", "Fell.", "train/it"))


def test_lines_that_are_no_warnings_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, [Warned(3, "watched", "Fell.")])
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'\xff\n[1]\n{"iteration": 4}\n{"iteration": 4, "rule": "x", "sent')
    assert [one.iteration for one in read(tmp_path)] == [3]
