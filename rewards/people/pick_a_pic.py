"""Pairs of pictures that somebody chose between, in Parquet files with the columns of Pick-a-Pic.

    jpg_0, jpg_1    binary    files of pictures, any that Pillow reads; what is written here is PNG
    caption         string    what both were drawn for
    label_0         double    1: the first is better, 0: the second, between them: how sure that is, .5 a tie
    label_1         double    1 - label_0, where there is such a column
    has_label       bool      false: nobody chose, or both are bad; true where there is no such column
    both_bad        bool      neither would do; then has_label is false. Pick-a-Pic itself has no such column
    ranking_id, image_0_uid, image_1_uid          of whoever wrote the row; not read

A dataset is one file, or a folder of any number of them, whose row groups are the unit of reading: of a file nothing is
held in memory but the one that rows are wanted of.

Source: Kirstain et al., Pick-a-Pic (arXiv 2305.01569), as yuvalkirstain/pickapic_v2 has it.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from rewards.people.lines import sync

SCHEMA = pa.schema(
    {
        "jpg_0": pa.binary(),
        "jpg_1": pa.binary(),
        "caption": pa.string(),
        "label_0": pa.float64(),
        "label_1": pa.float64(),
        "has_label": pa.bool_(),
        "both_bad": pa.bool_(),
        "ranking_id": pa.int64(),
        "image_0_uid": pa.string(),
        "image_1_uid": pa.string(),
    }
)
LABEL, TIE = "label", 0.5  # what choices are called among scores; that of who likes both as much
_PICTURES, _CHOICE = ("jpg_0", "jpg_1", "caption"), ("label_0", "label_1", "has_label", "both_bad")
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # PIL's RGB of these is white from 255 on
_READING = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what PIL raises of files
_MOST = 2**30  # bytes of a row group
_ROWS = 64  # of a row group that is written: a batch or two


class Corrupt(ValueError):
    """A row that cannot be read; the message says why."""


class DatasetChanged(Exception):
    """A file that is no longer what it was when the dataset was opened; the message is a sentence."""


class File(NamedTuple):
    """A file of a dataset, as it was when the dataset was opened."""

    path: str
    length: int  # bytes


@dataclass(frozen=True)
class Pair:
    """A row: two pictures of a caption, as files, and which was chosen."""

    caption: str
    pictures: tuple[bytes, bytes]
    label: float | None  # of the first, see the head of this file; `None`: there is none
    both_bad: bool = False
    uids: tuple[str, str] = ("", "")


def write(path: Path, pairs: Iterable[Pair], rows: int = _ROWS) -> int:
    """Write one file, whole and on the disk or not at all, a row group at a time; returns how many rows it has.

    Args:
        path: Where to; what was there is replaced.
        pairs: Any number; they are numbered (`ranking_id`) from 0.
        rows: Of a row group.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, count, left = path.with_name(f".{path.name}.{os.getpid()}.tmp"), 0, iter(pairs)
    try:
        with pq.ParquetWriter(temporary, SCHEMA) as file:
            while group := list(islice(left, rows)):
                records = [_record(number, pair) for number, pair in enumerate(group, count)]
                file.write_table(pa.Table.from_pylist(records, SCHEMA), row_group_size=rows)
                count += len(group)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return count


def _record(number: int, pair: Pair) -> dict[str, Any]:
    chosen = pair.label is not None
    values = {"caption": pair.caption, "has_label": chosen, "both_bad": pair.both_bad, "ranking_id": number}
    for side, own in enumerate((pair.label, None if pair.label is None else 1 - pair.label)):
        values |= {f"jpg_{side}": pair.pictures[side], f"label_{side}": own, f"image_{side}_uid": pair.uids[side]}
    return values


def encode(pixels: np.ndarray) -> bytes:
    """The file of a picture `(H, W, 3)` uint8."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


def decode(data: bytes | None) -> np.ndarray:
    """The picture `(H, W, 3)` uint8 of a file, upright.

    Raises:
        Corrupt: If it cannot be had.
    """
    if not data:
        raise Corrupt("a picture is missing")
    try:
        with Image.open(BytesIO(data)) as image:
            if image.mode in _DEEP:
                raise Corrupt(f"a picture has more than 8 bits a channel, as {image.mode}")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Corrupt:
        raise
    except _READING as error:
        raise Corrupt(f"a picture cannot be read ({' '.join(str(error).split())[:100]})") from error


def caption_of(row: Mapping[str, Any]) -> str:
    """The caption of a row of `read_rows`.

    Raises:
        Corrupt: If there is none.
    """
    try:
        caption = (row["caption"] or b"").decode().strip()
    except UnicodeDecodeError as error:
        raise Corrupt("the caption is no UTF-8") from error
    if not caption:
        raise Corrupt("there is no caption")
    return caption


def label_of(row: Mapping[str, Any]) -> float | None:
    """The label of a row's first picture in [0, 1]; `None` if nobody chose.

    Raises:
        Corrupt: If it is none, or the other picture's does not fit to it.
    """
    if row.get("has_label") is False:
        return None
    first, second = row["label_0"], row.get("label_1")
    if first is None or not 0 <= first <= 1:  # nor is NaN
        raise Corrupt(f"label_0 is {first} and not in [0, 1]")
    if second is not None and not math.isclose(first + second, 1, abs_tol=1e-6):
        raise Corrupt(f"the labels are {first} and {second}, which are not 1 together")
    return float(first)


@dataclass(frozen=True)
class Index:
    """Where the rows of a dataset are, read off the ends of its files."""

    files: tuple[File, ...]
    groups: tuple[tuple[int, int], ...]  # the file and the number in it, of every row group that has rows
    sizes: tuple[int, ...]  # rows of each of these
    checksum: str  # SHA-256 of names, lengths and row groups; other data has another, wherever the folder is

    @property
    def rows(self) -> int:
        """Of the dataset."""
        return sum(self.sizes)


def read_index(path: Path, split: str | None = None, labelled: bool = True) -> Index:
    """Look where the rows of a dataset are; of the files the ends alone are read, and once as long as they stay.

    Args:
        path: A Parquet file, or a folder with any number of them, also in folders of its own.
        split: Of a folder the files alone that are called so, `train.parquet` or `train-*.parquet`, or lie in a folder
            of that name.
        labelled: Whether there must be labels.

    Raises:
        ValueError: If there are none, or one is no such dataset; the sentence has no full stop.
    """
    files = _find(path, split)
    try:
        marks = tuple((str(file), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files)
    except OSError as error:
        raise ValueError(f"{error.filename} cannot be read ({error.strerror})") from error
    return _index(path if path.is_dir() else path.parent, marks, labelled)


def _find(path: Path, split: str | None) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"there is no dataset {path}: neither a Parquet file nor a folder of them")
    inside = (file for file in path.rglob("*.parquet") if not any(p[0] in "._" for p in file.relative_to(path).parts))
    found = sorted(file for file in inside if split is None or _is_of(file.relative_to(path), split))
    if not found:
        wanted = "" if split is None else f" of the split {split!r} ({split}-*.parquet)"
        raise ValueError(f"the folder {path} holds no Parquet file{wanted}")
    return found


def _is_of(file: Path, split: str) -> bool:
    return file.name == f"{split}.parquet" or file.name.startswith(f"{split}-") or split in file.parts[:-1]


@lru_cache(maxsize=4)
def _index(folder: Path, marks: tuple[tuple[str, int, int], ...], labelled: bool) -> Index:
    groups, sizes, digest = [], [], hashlib.sha256()
    for number, (file, length, _) in enumerate(marks):
        try:
            with pq.ParquetFile(file) as opened:
                metadata, schema = opened.metadata, opened.schema_arrow
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{file} is no Parquet file ({' '.join(str(error).split())[:200]})") from error
        _check_columns(file, schema, labelled)
        rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        for group, count in enumerate(rows):
            if (size := metadata.row_group(group).total_byte_size) > _MOST:
                raise ValueError(
                    f"row group {group} of {file} has {size / 1e9:.1f} GB, and a row group is read whole; write the "
                    "file with smaller ones (row_group_size=100)"
                )
            if count:
                groups.append((number, group))
                sizes.append(count)
        digest.update(f"{Path(file).relative_to(folder).as_posix()} {length} {rows}\n".encode())
    if not groups:
        raise ValueError(f"the dataset {folder} has no rows")
    return Index(
        tuple(File(file, length) for file, length, _ in marks), tuple(groups), tuple(sizes), digest.hexdigest()
    )


def _check_columns(file: str, schema: pa.Schema, labelled: bool) -> None:
    kinds = {
        **dict.fromkeys(_PICTURES, (pa.types.is_binary, pa.types.is_large_binary)),
        "caption": (pa.types.is_string, pa.types.is_large_string),
        **(dict.fromkeys(("label_0", "label_1"), (pa.types.is_floating, pa.types.is_integer)) if labelled else {}),
        **({"has_label": (pa.types.is_boolean,)} if labelled else {}),
    }
    for name, allowed in kinds.items():
        if name not in schema.names:
            if name in ("label_1", "has_label"):
                continue
            raise ValueError(f"{file} has no column {name!r}, but {', '.join(map(repr, schema.names[:8])) or 'none'}")
        if schema.names.count(name) > 1 or not any(is_one(schema.field(name).type) for is_one in allowed):
            raise ValueError(f"the column {name!r} of {file} is {schema.field(name).type}, which Pick-a-Pic's is not")


def read_rows(file: File, group: int, rows: Sequence[int], labelled: bool = True) -> Iterator[dict[str, Any]]:
    """Some rows of a row group, as `caption_of`, `label_of` and `decode` take them apart.

    The row groups last read stay in memory, two of them, because the next rows will be of the same.

    Args:
        file: Of the dataset.
        group: Number of the row group in it.
        rows: Numbers in the row group.
        labelled: Whether the labels are wanted.

    Raises:
        Corrupt: If the row group is damaged.
        DatasetChanged: If the file is another one by now, or gone.
    """
    taken = _row_group(file, group, labelled).take(pa.array(rows, pa.int64()))
    yield from taken.to_pylist()


@lru_cache(maxsize=2)
def _row_group(file: File, group: int, labelled: bool) -> pa.Table:
    try:
        same = Path(file.path).stat().st_size == file.length
    except FileNotFoundError:
        same = False
    if not same:
        raise DatasetChanged(
            f"{file.path} has changed or gone since the dataset was opened; put back what was there, and go on."
        )
    try:
        with pq.ParquetFile(file.path, pre_buffer=False) as opened:
            there = opened.schema_arrow.names
            wanted = [name for name in (*_PICTURES, *(_CHOICE if labelled else ())) if name in there]
            table = opened.read_row_group(group, columns=wanted, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise Corrupt(f"row group {group} of {file.path} is damaged ({' '.join(str(error).split())[:100]})") from error
    place = table.column_names.index("caption")
    kind = pa.large_binary() if pa.types.is_large_string(table.schema.field("caption").type) else pa.binary()
    return table.set_column(place, "caption", table["caption"].cast(kind))  # bytes that are no text stay to be found
