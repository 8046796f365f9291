"""Files that are whole at any instant: written beside their place, and moved there when complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from cluster.errors import WriteError


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its place when the block ends; if the block fails, what was there stays, and nothing else.

    Its temporary is hidden, so that readers of data sets pass over it, and ends in `.tmp`.

    Raises:
        WriteError: If the disk is full, a folder is in the file's place, or it cannot be written for another reason of
            the system's.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with writable(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                yield file
            try:
                temporary.replace(path)
            except IsADirectoryError:
                raise WriteError(f"{path} is a folder, where a file is to be written; move it away.") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Say which folder it is that cannot be written to, where something in this block cannot be.

    Raises:
        WriteError: In place of any other `OSError`.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        raise WriteError(
            f"{folder} cannot be written to: {os.strerror(error.errno) if error.errno else error}; see to its disk, "
            "then give the command again (a run goes on with --resume)."
        ) from error


def forget_temporaries(folder: Path) -> None:
    """Remove what killed writers left in a folder and in those right below it; no other writer may be at work."""
    for pattern in (".*.tmp", "*/.*.tmp"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
