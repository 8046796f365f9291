"""The format of Pick-a-Pic: what is written is read back, what is broken is told apart, and little is looked at."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rewards.people import pick_a_pic
from rewards.people.pick_a_pic import (
    SCHEMA,
    Corrupt,
    DatasetChanged,
    Pair,
    caption_of,
    decode,
    encode,
    label_of,
    read_index,
    read_rows,
    write,
)

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 6, 5, 3), np.uint8)
PAIR = Pair("a red circle", (encode(PIXELS[0]), encode(PIXELS[1])), 1.0, uids=("left.png", "right.png"))


def pairs(count: int) -> Iterator[Pair]:
    return (replace(PAIR, caption=f"picture {number}") for number in range(count))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Every row, in order."""
    index = read_index(path)
    return [
        row
        for (file, group), size in zip(index.groups, index.sizes, strict=True)
        for row in read_rows(index.files[file], group, range(size))
    ]


def test_what_is_written_is_read_back_to_the_pixel(tmp_path: Path) -> None:
    given = [PAIR, replace(PAIR, label=0.0), replace(PAIR, label=0.5), replace(PAIR, label=None, both_bad=True)]
    assert write(tmp_path / "a.parquet", given) == 4
    found = rows_of(tmp_path / "a.parquet")
    assert [label_of(row) for row in found] == [1.0, 0.0, 0.5, None]
    assert {caption_of(row) for row in found} == {"a red circle"}
    assert all(np.array_equal(decode(row[f"jpg_{side}"]), PIXELS[side]) for row in found for side in (0, 1))
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema == SCHEMA
    assert table["both_bad"].to_pylist() == [False, False, False, True]
    assert table["label_1"].to_pylist() == [0.0, 1.0, 0.5, None]
    assert table["ranking_id"].to_pylist() == [0, 1, 2, 3]
    assert not list(tmp_path.glob(".*"))


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bytes, bool]] = []
    path = tmp_path / "a.parquet"
    look = lambda of: synced.append((of.read_bytes() if of.is_file() else of.name.encode(), path.exists()))  # noqa: E731
    monkeypatch.setattr(pick_a_pic, "sync", look)
    write(path, pairs(100))
    assert synced == [(path.read_bytes(), False), (tmp_path.name.encode(), True)]


def test_a_file_that_is_not_finished_is_not_there(tmp_path: Path) -> None:
    def broken() -> Iterator[Pair]:
        yield from pairs(100)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write(tmp_path / "a.parquet", broken())
    assert list(tmp_path.iterdir()) == []


def test_row_groups_are_small_and_all_are_in_the_index(tmp_path: Path) -> None:
    write(tmp_path / "train-00000-of-00002.parquet", pairs(150))
    write(tmp_path / "deep" / "train-00001-of-00002.parquet", pairs(10), rows=4)
    write(tmp_path / "validation-00000-of-00001.parquet", pairs(3))
    write(tmp_path / "test" / "x.parquet", pairs(2))
    write(tmp_path / ".hidden" / "x.parquet", pairs(2))
    index = read_index(tmp_path)
    assert sorted(index.sizes) == [2, 2, 3, 4, 4, 22, 64, 64]
    assert index.rows == 165
    assert read_index(tmp_path, "train").rows == 160
    assert read_index(tmp_path, "validation").rows == 3
    assert read_index(tmp_path, "test").rows == 2
    with pytest.raises(ValueError, match=r"holds no Parquet file of the split 'dev' \(dev-\*\.parquet\)$"):
        read_index(tmp_path, "dev")


def test_the_checksum_follows_the_files_and_not_the_folder(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.parquet", pairs(70))
    before = read_index(tmp_path / "a").checksum
    (tmp_path / "a").rename(tmp_path / "b")
    assert read_index(tmp_path / "b").checksum == before
    write(tmp_path / "b" / "x.parquet", pairs(70), rows=32)
    assert read_index(tmp_path / "b").checksum != before
    write(tmp_path / "b" / "x.parquet", pairs(70))
    assert read_index(tmp_path / "b").checksum == before
    write(tmp_path / "b" / "y.parquet", pairs(1))
    assert read_index(tmp_path / "b").checksum != before


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"caption": None}, "has no column 'caption', but 'jpg_0'"),
        ({"label_0": None}, "has no column 'label_0'"),
        ({"jpg_1": pa.array(["text"])}, r"the column 'jpg_1' of .* is string, which Pick-a-Pic's is not"),
        ({"label_0": pa.array(["1"])}, "the column 'label_0' of .* is string"),
        ({"has_label": pa.array([1])}, "the column 'has_label' of .* is int64"),
    ],
)
def test_files_with_other_columns_are_refused(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    write(tmp_path / "a.parquet", [PAIR])
    whole = pq.read_table(tmp_path / "a.parquet")
    there = {name: columns.get(name, whole[name]) for name in whole.column_names}
    pq.write_table(pa.table({n: c for n, c in there.items() if c is not None}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=words):
        read_index(tmp_path)
    if set(columns) <= {"label_0", "has_label"}:  # of rewards nobody needs them
        assert read_index(tmp_path, labelled=False).rows == 1


def test_what_is_no_dataset_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there is no dataset"):
        read_index(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"holds no Parquet file$"):
        read_index(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(ValueError, match=r"a\.parquet is no Parquet file"):
        read_index(tmp_path)
    (tmp_path / "b.parquet").symlink_to("nowhere")
    with pytest.raises(ValueError, match=r"b\.parquet cannot be read \(No such file or directory\)$"):
        read_index(tmp_path)
    (tmp_path / "b.parquet").unlink()
    write(tmp_path / "a.parquet", [])
    with pytest.raises(ValueError, match="has no rows"):
        read_index(tmp_path)
    write(tmp_path / "a.parquet", [PAIR])
    monkeypatch.setattr(pick_a_pic, "_MOST", 100)
    with pytest.raises(ValueError, match=r"a row group is read whole; write the file with smaller ones"):
        read_index(tmp_path, labelled=False)


def test_optional_columns_may_be_missing_and_large_types_are_as_good(tmp_path: Path) -> None:
    columns = {
        "jpg_0": pa.array([PAIR.pictures[0]], pa.large_binary()),
        "jpg_1": pa.array([PAIR.pictures[1]], pa.large_binary()),
        "caption": pa.array(["é"], pa.large_string()),
        "label_0": pa.array([0], pa.int32()),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    (row,) = rows_of(tmp_path / "a.parquet")
    assert (caption_of(row), label_of(row)) == ("é", 0.0)


@pytest.mark.parametrize("label", [None, math.nan, -0.1, 1.1, math.inf])
def test_labels_outside_of_0_to_1_are_corrupt(label: float | None) -> None:
    with pytest.raises(Corrupt, match="label_0"):
        label_of({"label_0": label})
    assert label_of({"label_0": label, "has_label": False}) is None


def test_labels_that_contradict_each_other_are_corrupt() -> None:
    assert label_of({"label_0": 0.3, "label_1": 0.7, "has_label": True}) == 0.3
    with pytest.raises(Corrupt, match="not 1 together"):
        label_of({"label_0": 1.0, "label_1": 1.0})


@pytest.mark.parametrize("caption", [None, b"", b"  \n", b"caf\xe9"])
def test_captions_that_are_missing_or_no_text_are_corrupt(caption: bytes | None) -> None:
    with pytest.raises(Corrupt, match="caption"):
        caption_of({"caption": caption})


def test_a_caption_that_is_no_text_spoils_no_other_row(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", pairs(3))
    table = pq.read_table(tmp_path / "a.parquet")
    broken = pa.array([b"one", b"caf\xe9", b"three"]).view(pa.string())
    table = table.set_column(table.column_names.index("caption"), "caption", broken)
    pq.write_table(table, tmp_path / "a.parquet", use_dictionary=False)
    first, second, third = rows_of(tmp_path / "a.parquet")
    assert [caption_of(first), caption_of(third)] == ["one", "three"]
    with pytest.raises(Corrupt, match="no UTF-8"):
        caption_of(second)


def jpeg(image: Image.Image, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG", **how)
    return file.getvalue()


def test_any_picture_that_pillow_reads_is_one_and_is_upright() -> None:
    picture = Image.new("L", (6, 4), 90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    assert decode(jpeg(picture)).shape == (4, 6, 3)
    assert decode(jpeg(picture, exif=exif)).shape == (6, 4, 3)


@pytest.mark.parametrize("data", [None, b"", b"no picture", PAIR.pictures[0][:40], encode(PIXELS[0])[:-30]])
def test_pictures_that_cannot_be_decoded_are_corrupt(data: bytes | None) -> None:
    with pytest.raises(Corrupt, match="picture"):
        decode(data)


def test_deep_pictures_are_corrupt_and_not_white() -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4), 30_000, np.uint16)).save(file, format="PNG")
    with pytest.raises(Corrupt, match="8 bits"):
        decode(file.getvalue())


def test_a_damaged_row_group_is_corrupt_and_a_file_that_changed_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write(path, pairs(5))
    index, data = read_index(path), bytearray(path.read_bytes())
    data[4:-2000] = bytes(len(data) - 2004)
    path.write_bytes(data)
    with pytest.raises(Corrupt, match=r"row group 0 of .* is damaged"):
        list(read_rows(index.files[0], 0, [0]))
    path.write_bytes(data[:-1])
    with pytest.raises(DatasetChanged, match=r"a\.parquet has changed or gone since the dataset was opened; put back"):
        list(read_rows(index.files[0], 0, [0]))
    path.unlink()
    with pytest.raises(DatasetChanged, match=r"changed or gone"):
        list(read_rows(index.files[0], 0, [0]))
