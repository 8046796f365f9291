"""Rows of a dataset as a request of pictures: what an actor is given to read, and what it says of it.

Samples 2 i and 2 i + 1 of a batch are the pictures of its row i, one group. A row that is skipped takes its group
along and changes the place, and so the noise, of no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from actors.trajectories import Request
from rewards.people.pick_a_pic import LABEL, TIE, Corrupt, File, caption_of, decode, label_of, read_rows


@dataclass(frozen=True)
class Counts:
    """What became of rows."""

    rows: int = 0  # that were read
    corrupt: int = 0  # cannot be read
    unlabelled: int = 0  # nobody chose, or both are bad
    ties: int = 0  # that were dropped
    long: int = 0  # whose caption the model does not read to its end

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)})

    @property
    def pairs(self) -> int:
        """That are left."""
        return self.rows - self.corrupt - self.unlabelled - self.ties - self.long


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of a batch, and how they are read; calling it reads them, see `actors.encoding.Read`."""

    seed: int  # of the run
    batch: int  # that they belong to
    first: int  # number of the first of them in the batch
    pieces: tuple[tuple[File, int, tuple[int, ...]], ...]  # file, row group in it, rows in that
    by_people: bool  # labels count, and rows without one do not
    drop_ties: bool

    def __call__(self, reads_whole: Callable[[Sequence[str]], Sequence[bool]]) -> tuple[Request, Mapping[str, Any]]:
        """The request of their pictures, and the fields of `Rollout` that are known already: `counts`, and `scores` by
        people, the label of each picture.

        Raises:
            DatasetChanged: If a file is another one by now, or gone.
        """
        kept: list[tuple[int, str, float, list[np.ndarray]]] = []
        skipped = dict.fromkeys(("corrupt", "unlabelled", "ties"), 0)
        number = self.first
        for file, group, rows in self.pieces:
            for row in self._rows(file, group, rows):
                try:
                    caption, label = caption_of(row), self._label(row)
                    if label is None:
                        skipped["unlabelled"] += 1
                    elif label == TIE and self.by_people and self.drop_ties:
                        skipped["ties"] += 1
                    else:
                        kept.append((number, caption, label, [decode(row["jpg_0"]), decode(row["jpg_1"])]))
                except Corrupt:
                    skipped["corrupt"] += 1
                number += 1
        whole = reads_whole([caption for _, caption, _, _ in kept])
        read = [one for one, is_whole in zip(kept, whole, strict=True) if is_whole]
        counts = Counts(number - self.first, **skipped, long=len(kept) - len(read))
        request = Request(
            self.seed,
            self.batch,
            tuple(caption for _, caption, _, _ in read for _ in range(2)),
            tuple(place for place, _, _, _ in read for _ in range(2)),
            (0, 1) * len(read),
            clean=True,
            start=tuple(image for _, _, _, images in read for image in images),
        )
        scores = np.array([side for _, _, label, _ in read for side in (label, 1 - label)], np.float32)
        return request, {"counts": counts} | ({"scores": {LABEL: scores}} if self.by_people else {})

    def _rows(self, file: File, group: int, rows: Sequence[int]) -> Sequence[Mapping[str, Any]]:
        try:
            return list(read_rows(file, group, rows, self.by_people))
        except Corrupt:
            return [{"caption": None}] * len(rows)  # nothing of it can be read

    def _label(self, row: Mapping[str, Any]) -> float | None:
        return label_of(row) if self.by_people else TIE
