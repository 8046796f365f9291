"""What has been drawn and judged, on disk: one file a request and answer, each written whole or not at all.

    FOLDER/parts/<key>/000000.pictures.npz          pixels (B, H, W, 3) uint8 and missing (B,) bool
    FOLDER/parts/<key>/000000.<judge>.scores.npy    (B,) float32, NaN where a picture could not be judged
    FOLDER/parts/<key>/000000.<judge>.features.npy  (B, D) float32

The key is of all that decides the pictures but what is in the base model's files, which counts by its path. A judge's
name ends with a checksum of its settings, of its class's file and of local files that its options name. So a folder can
be asked for more prompts, models or rewards, and nothing in it is drawn or judged twice.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from cluster.errors import ConfigError
from cluster.matrix.draws import Draw
from cluster.records.files import replacing
from rewards.errors import said

What = Literal["scores", "features"]
_BROKEN = (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Column:
    """A column of an evaluation: what one judge says about every picture."""

    name: str  # of the reward
    judge: str  # the same, with a checksum of what it is
    what: What


@dataclass(frozen=True)
class Store:
    """The folder of an evaluation."""

    folder: Path

    def pictures(self, draw: Draw, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The pictures `(B, H, W, 3)` uint8 of a request that has been drawn, and which are finite, `(B,)` bool.

        Raises:
            ConfigError: If their file is damaged.
        """
        path = self._path(draw, number, "pictures.npz")
        try:
            with np.load(path) as found:
                return found["pixels"], ~found["missing"]
        except _BROKEN as error:
            why = said(error, place=False)
            raise ConfigError(f"{path} is damaged ({why}); delete it, and it is made anew.") from error

    def drawn(self, draw: Draw, number: int) -> bool:
        """Whether the pictures of a request are there."""
        return zipfile.is_zipfile(self._path(draw, number, "pictures.npz"))

    def keep_pictures(self, draw: Draw, number: int, pixels: np.ndarray) -> None:
        """Write pictures; raises `WriteError` as `replacing`."""
        missing = np.ma.getmaskarray(pixels).any(axis=(1, 2, 3))
        with replacing(self._path(draw, number, "pictures.npz")) as file:
            np.savez_compressed(file, pixels=np.ma.getdata(pixels), missing=missing)

    def answer(self, draw: Draw, number: int, column: Column) -> np.ndarray | None:
        """What was answered about the pictures of a request; `None` if it is not there."""
        try:
            return np.load(self._path(draw, number, f"{column.judge}.{column.what}.npy"))
        except _BROKEN:
            return None

    def keep_answer(self, draw: Draw, number: int, column: Column, answer: np.ndarray) -> None:
        """Write an answer; raises `WriteError` as `replacing`."""
        with replacing(self._path(draw, number, f"{column.judge}.{column.what}.npy")) as file:
            np.save(file, answer, allow_pickle=False)

    def answers(self, draw: Draw, column: Column) -> np.ndarray:
        """The answers about all pictures of a draw, in the order of its requests.

        Raises:
            FileNotFoundError: If one is missing.
        """
        found = [self.answer(draw, number, column) for number in range(len(draw.requests))]
        if any(part is None for part in found):
            raise FileNotFoundError(f"{self.folder} lacks some of {column.judge} ({draw.key}).")
        parts = [part for part in found if part is not None]
        if column.what == "features":
            width = max(1, *(part.shape[1] for part in parts))  # 0 where no picture was there, or the reward raised
            parts = [p if p.shape[1] else np.full((len(p), width), np.nan, np.float32) for p in parts]
        return np.concatenate(parts)

    def _path(self, draw: Draw, number: int, name: str) -> Path:
        return self.folder / "parts" / draw.key / f"{number:06d}.{name}"
