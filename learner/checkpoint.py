"""Checkpoints on disk: written whole or not at all, refused when altered.

A checkpoint is a folder `iteration-000012` with whatever files its writer puts there and a `manifest.json` of their
checksums. It is written under a temporary name and renamed when complete, so a crash leaves no half checkpoint behind.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_PREFIX = "iteration-"


class CheckpointError(Exception):
    """A checkpoint that is missing, torn or altered."""


@contextmanager
def writing(folder: Path, iteration: int, keep: int = 0) -> Iterator[Path]:
    """Write a checkpoint: fill the folder that this yields, leave the block, and it exists.

    Args:
        folder: Where checkpoints live.
        iteration: What this one is called after; one of the same name is replaced.
        keep: Delete all but this many of the newest afterwards; 0 keeps all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{_PREFIX}{iteration:06d}"
    temporary = folder / f".{final.name}.{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        sums = {str(path.relative_to(temporary)): _checksum(path) for path in files}
        (temporary / _MANIFEST).write_text(json.dumps({"iteration": iteration, "sha256": sums}, indent=2) + "\n")
        for path in [*files, temporary / _MANIFEST]:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    if keep:
        for old in list_all(folder)[:-keep]:
            shutil.rmtree(old)


def verify(checkpoint: Path) -> int:
    """The iteration of a checkpoint.

    Raises:
        CheckpointError: If it is not there, or a file is missing or has changed.
    """
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_text())
        sums, iteration = dict(manifest["sha256"]), int(manifest["iteration"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{checkpoint} is not a checkpoint: its {_MANIFEST} cannot be read ({error}).") from error
    for name, expected in sums.items():
        path = checkpoint / name
        if not path.is_file():
            raise CheckpointError(f"The checkpoint {checkpoint} is torn: {name} is missing.")
        if _checksum(path) != expected:
            raise CheckpointError(f"The checkpoint {checkpoint} is damaged: {name} is not the file that was written.")
    return iteration


def newest(folder: Path) -> Path:
    """The newest checkpoint that verifies; damaged ones are passed over with a warning.

    Raises:
        CheckpointError: If there is none.
    """
    for checkpoint in reversed(list_all(folder)):
        try:
            verify(checkpoint)
            return checkpoint
        except CheckpointError as error:
            log.warning("%s The one before it is used.", error)
    raise CheckpointError(f"There is no usable checkpoint in {folder}.")


def list_all(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first; none where there is no folder."""
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
