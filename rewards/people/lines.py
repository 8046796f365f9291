"""JSON lines that nothing is lost from: appended whole, fsynced, under a lock; a last line that is torn is no line."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


class InUse(RuntimeError):
    """Another process writes to the file; the message is one sentence for the user."""


class NotKept(OSError):
    """Something could not be written, and nothing of it stays; the message is one sentence for the user."""


class Damaged(ValueError):
    """A file says something else than it should; the message is one sentence for the user."""


def sync(path: Path) -> None:
    """Have a file, or a folder's names of what is in it, on the disk.

    Raises:
        OSError: If the disk does not take it.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_lines(path: Path, start: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The records of a file, from a position on, as far as their lines are complete.

    Args:
        path: The file; one that is not there is empty.
        start: Position in bytes, at the beginning of a line.

    Returns:
        The records, and the position after the last of them.

    Raises:
        Damaged: If a complete line is no JSON object.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return [], start
    whole = data[: data.rfind(b"\n") + 1]
    records, position = [], start
    for line in whole.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise Damaged(
                f"{path} is damaged at byte {position}: the line there is no JSON object; put back what was there, or "
                "take the line out."
            )
        records.append(record)
        position += len(line)
    return records, position


class Journal:
    """A file of JSON lines in the hands of one writer; a context manager.

    What a writer that was killed left of its last line is cut off.

    Args:
        path: The file; it and its folder are made if they are not there.
        wait: Wait for another writer to finish, rather than refuse.

    Raises:
        Damaged: As `read_lines`.
        InUse: If another process has it.
        NotKept: If it cannot be written to.

    Attributes:
        records: What was in it when it was opened.
    """

    def __init__(self, path: Path, wait: bool = False) -> None:
        self.path, self._torn = path, False  # whether there is more behind the last complete line
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        except OSError as error:
            raise _not_kept(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            self.records, self._end = read_lines(path)
            self._cut()
            sync(path.parent)
        except BlockingIOError:
            self.close()
            raise InUse(f"Another process writes to {path}; stop it first, or use the page that it serves.") from None
        except OSError as error:
            self.close()
            raise _not_kept(path, error) from error
        except BaseException:
            self.close()
            raise

    def append(self, *records: Mapping[str, Any]) -> None:
        """Append records; they are on the disk when this returns.

        Raises:
            NotKept: If they cannot be written; then none of them is there.
        """
        data = b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)
        try:
            if self._torn:
                self._cut()
            self._torn = True
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            with suppress(OSError):
                self._cut()
            raise _not_kept(self.path, error) from error
        self._torn = False
        self._end += len(data)

    def close(self) -> None:
        """Let others write."""
        os.close(self._file)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _cut(self) -> None:
        """Take away what is behind the last complete line."""
        self._torn = True  # until it is done
        if os.fstat(self._file).st_size > self._end:
            os.ftruncate(self._file, self._end)
            os.fsync(self._file)
        self._torn = False


def _not_kept(path: Path, error: OSError) -> NotKept:
    why = os.strerror(error.errno) if error.errno else str(error)
    return NotKept(f"{path} cannot be written to ({why}); see to its disk.")
