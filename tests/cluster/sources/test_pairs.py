"""Rows as a request of pictures: what is kept, what is skipped and counted, and that no row moves another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cluster.sources.pairs import Counts, Rows
from rewards.people.pick_a_pic import LABEL, File, Pair, encode, write

PICTURES = [np.full((4, 4, 3), level, np.uint8) for level in range(20)]


def pair(number: int, label: float | None = 1.0) -> Pair:
    """Pair n shows the levels 2 n and 2 n + 1."""
    return Pair(f"picture {number}", (encode(PICTURES[2 * number]), encode(PICTURES[2 * number + 1])), label)


MIXED = [
    pair(0, 1.0),
    replace(pair(1), pictures=(b"broken", b"too")),
    pair(2, 0.5),
    pair(3, None),
    replace(pair(4), caption="much too long for any model"),
    replace(pair(5), caption=""),
    pair(6, 0.25),
    pair(7, 2.0),
]


def reads(prompts: Sequence[str]) -> list[bool]:
    return [len(prompt) < 20 for prompt in prompts]


def file_of(path: Path) -> File:
    return File(str(path), path.stat().st_size)


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    write(tmp_path / "a.parquet", MIXED)
    return Rows(7, 3, 8, ((file_of(tmp_path / "a.parquet"), 0, tuple(range(8))),), True, True)


def test_what_cannot_be_learned_from_is_counted_and_takes_no_other_row_along(rows: Rows) -> None:
    request, said = rows(reads)
    assert said["counts"] == Counts(rows=8, corrupt=3, unlabelled=1, ties=1, long=1)
    assert said["counts"].pairs == 2
    assert request.prompts == ("picture 0",) * 2 + ("picture 6",) * 2
    assert request.prompt_index == (8, 8, 14, 14)  # where they are in the batch
    assert request.sample_index == (0, 1, 0, 1)
    assert (request.seed, request.iteration, request.clean) == (7, 3, True)
    assert said["scores"][LABEL].tolist() == [1.0, 0.0, 0.25, 0.75]
    assert [int(image[0, 0, 0]) for image in request.start or ()] == [0, 1, 12, 13]


def test_ties_can_be_soft(rows: Rows) -> None:
    request, said = replace(rows, drop_ties=False)(reads)
    assert request.prompts[2:4] == ("picture 2",) * 2
    assert said["scores"][LABEL].tolist() == [1.0, 0.0, 0.5, 0.5, 0.25, 0.75]
    assert said["counts"].ties == 0


def test_where_rewards_judge_labels_are_not_looked_at(rows: Rows) -> None:
    request, said = replace(rows, by_people=False)(reads)
    assert "scores" not in said
    assert said["counts"] == Counts(rows=8, corrupt=2, long=1)
    assert sorted({int(prompt[8:]) for prompt in request.prompts}) == [0, 2, 3, 6, 7]


def test_rows_come_in_the_order_that_they_are_asked_for_also_twice(rows: Rows) -> None:
    ((file, group, _),) = rows.pieces
    request, _ = replace(rows, pieces=((file, group, (6,)), (file, group, (0, 6))))(reads)
    assert request.prompts[::2] == ("picture 6", "picture 0", "picture 6")
    assert request.prompt_index[::2] == (8, 9, 10)


def test_a_row_group_that_is_damaged_counts_as_corrupt_rows(rows: Rows, tmp_path: Path) -> None:
    whole = tmp_path / "b.parquet"
    write(whole, [pair(9)])
    path = tmp_path / "a.parquet"
    data = bytearray(path.read_bytes())
    data[4:-3000] = bytes(len(data) - 3004)
    path.write_bytes(data)
    request, said = replace(rows, pieces=(*rows.pieces, (file_of(whole), 0, (0,))))(reads)
    assert said["counts"] == Counts(rows=9, corrupt=8)
    assert (request.prompts, request.prompt_index) == (("picture 9",) * 2, (16, 16))
