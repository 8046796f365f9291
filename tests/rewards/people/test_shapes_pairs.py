"""Rendered pairs: the label is right, the shares are as asked for, and a row is a function of its number."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from rewards.people.pick_a_pic import Corrupt, Pair, caption_of, decode, label_of, read_index, read_rows
from rewards.people.shapes_pairs import main, make_pair
from shapes.captions import parse
from shapes.judge import gold_score
from shapes.worlds import SECOND


def golds(pair: Pair, **world: object) -> list[float]:
    return [gold_score(decode(data), parse(pair.caption, **world)) for data in pair.pictures]  # type: ignore[arg-type]


def test_the_better_picture_is_the_true_one_and_only_that() -> None:
    made = [make_pair(row) for row in range(60)]
    assert {pair.label for pair in made} == {0.0, 1.0}
    right = [golds(pair)[0 if pair.label else 1] == 1 and min(golds(pair)) < 1 for pair in made]
    assert sum(right) >= 58  # the judge misses one in a hundred


def test_of_a_tie_both_are_true_and_of_a_mistake_the_better_one_is_false() -> None:
    tied = [make_pair(row, ties=1.0) for row in range(20)]
    assert {pair.label for pair in tied} == {0.5}
    assert sum(golds(pair) == [1, 1] for pair in tied) >= 19
    mistaken, true = make_pair(3, mistakes=1.0), make_pair(3)
    assert mistaken.pictures == true.pictures
    assert mistaken.label == 1 - (true.label or 0)


def test_a_row_is_a_function_of_its_number_the_seed_and_the_split() -> None:
    assert make_pair(5) == make_pair(5)
    others = [make_pair(6), make_pair(5, seed=1), make_pair(5, split="validation")]
    assert all(other.pictures != make_pair(5).pictures for other in others)
    assert golds(make_pair(1, world=SECOND), world=SECOND)


def test_the_command_writes_both_splits_with_the_shares_that_were_asked_for(tmp_path: Path) -> None:
    assert main([str(tmp_path), "--rows", "200", "--held-out", "7", "--ties", "0.25", "--corrupt", "0.2"]) == 0
    assert read_index(tmp_path, "validation").rows == 7
    index, kinds = read_index(tmp_path, "train"), Counter[str]()
    for (file, group), size in zip(index.groups, index.sizes, strict=True):
        for row in read_rows(index.files[file], group, range(size)):
            try:
                caption_of(row), decode(row["jpg_0"]), decode(row["jpg_1"])
                kinds["tie" if label_of(row) == 0.5 else "pair"] += 1
            except Corrupt as reason:
                kinds[str(reason).split(" (")[0]] += 1
    assert kinds.total() == 200
    assert 25 <= kinds["tie"] <= 55  # a quarter of four in five
    assert len(kinds) >= 6  # every way to be corrupt
    assert 25 <= 200 - kinds["tie"] - kinds["pair"] <= 55


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan", "some"])
def test_a_share_that_is_none_is_refused(tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--ties", share])
    assert "is not a number from 0 to 1" in capsys.readouterr().err


def test_datasets_of_other_sizes_are_not_mixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train-00000-of-00002.parquet").touch()
    assert main([str(tmp_path), "--rows", "3"]) == 1
    assert "train-00000-of-00002.parquet is of another dataset; take another folder" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1
