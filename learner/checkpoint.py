"""Checkpoints on disk: written whole or not at all, refused when altered.

A checkpoint is a folder `iteration-000012` with whatever files its writer puts there and a `manifest.json` of their
checksums. It is written under a hidden name and renamed when complete, so a crash leaves no half checkpoint behind.
Links are never followed: what is not in the folder itself is no part of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

log = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_PREFIX = "iteration-"
_REPLACED = ".replaced"  # ends the hidden name of a checkpoint while another takes its place
_FULL = (errno.ENOSPC, errno.EDQUOT)


class CheckpointError(Exception):
    """A checkpoint that is missing, torn or altered, or that cannot be written."""


@contextmanager
def writing(folder: Path, iteration: int, keep: int = 0) -> Iterator[Path]:
    """Write a checkpoint: fill the folder that this yields, leave the block, and it exists.

    Afterwards nothing else is left that a killed writer began, nor any checkpoint of a later iteration: a run that went
    back has forgotten those.

    Args:
        folder: Where checkpoints live.
        iteration: What this one is called after; one of the same name is replaced.
        keep: Delete all but this many of the newest afterwards; 0 keeps all.

    Raises:
        CheckpointError: If the disk is full or broken; the checkpoints that were there still are.
    """
    final = folder / f"{_PREFIX}{iteration:06d}"
    temporary = folder / f".{final.name}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove(temporary)
        temporary.mkdir()
        yield temporary
        _complete(temporary, iteration)
        _replace(final, temporary)
    except Exception as error:
        _explain(error, folder, iteration, temporary)
    finally:
        _remove(temporary)
    for path in list_all(folder):
        if path.name.endswith(_REPLACED):
            path.rename(folder / path.name.removeprefix(".").removesuffix(_REPLACED))
    written = _by_number(folder)
    later = [path for number, path in written.items() if number > iteration]
    old = [path for number, path in written.items() if number <= iteration][:-keep] if keep else []
    for path in (*later, *old, *folder.glob(f".{_PREFIX}*")):
        _remove(path)


def verify(checkpoint: Path) -> int:
    """The iteration of a checkpoint. Files that its manifest does not list are no part of it.

    Raises:
        CheckpointError: If it is not there, or a file is missing or has changed, or cannot be read.
    """
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_bytes())
        sums, iteration, seal = manifest["sha256"], manifest["iteration"], manifest["seal"]
        if seal != _seal(sums, iteration):
            raise ValueError("it is not what was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{checkpoint} is not a checkpoint: its {_MANIFEST} cannot be read ({_said(error)})."
        ) from error
    if not sums:
        raise CheckpointError(f"{checkpoint} is not a checkpoint: its {_MANIFEST} lists no files.")
    if (number := _number(checkpoint)) not in (None, iteration):
        raise CheckpointError(f"{checkpoint} holds iteration {iteration}, not {number}: it is a copy that was renamed.")
    for name, expected in sums.items():
        try:
            found = _checksum(_inside(checkpoint, name))
        except FileNotFoundError as error:
            raise CheckpointError(f"The checkpoint {checkpoint} is torn: {name} is missing.") from error
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"The checkpoint {checkpoint} is damaged: {name[:80]} cannot be read ({_said(error)})."
            ) from error
        if found != expected:
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
    """The checkpoints in a folder by iteration, oldest first; none where there is nothing.

    Names that no checkpoint has, and links, do not count. One that a killed writer had moved aside for another stands
    in for it.

    Raises:
        CheckpointError: If what is there is no folder, or cannot be read.
    """
    return list(_by_number(folder).values())


def _by_number(folder: Path) -> dict[int, Path]:
    found: dict[int, Path] = {}
    try:
        for entry in os.scandir(folder):
            path = folder / entry.name
            number = _number(path)
            if number is not None and entry.is_dir(follow_symlinks=False):
                found[number] = path if number not in found or entry.name.startswith(_PREFIX) else found[number]
    except OSError as error:
        if not os.path.lexists(folder):
            return {}
        raise CheckpointError(f"The checkpoints in {folder} cannot be read ({_said(error)}).") from error
    return dict(sorted(found.items()))


def _number(path: Path) -> int | None:
    """Which iteration a folder's name promises; `None` if it is no checkpoint's name."""
    name = path.name.removeprefix(".").removesuffix(_REPLACED) if path.name.endswith(_REPLACED) else path.name
    digits = name.removeprefix(_PREFIX)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        return None
    return int(digits) if name == f"{_PREFIX}{int(digits):06d}" else None


def _complete(temporary: Path, iteration: int) -> None:
    """Add the manifest, give all files the modes that the umask allows, and wait until the disk has them."""
    paths = sorted(temporary.rglob("*"))
    files = [path for path in paths if path.is_file()]
    sums = {path.relative_to(temporary).as_posix(): _checksum(path) for path in files}
    manifest = {"iteration": iteration, "sha256": sums, "seal": _seal(sums, iteration)}
    (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    allowed = stat.S_IMODE(temporary.stat().st_mode)  # of a folder just made; some writers make files private
    for path in (*files, temporary / _MANIFEST):
        path.chmod(allowed & 0o666)
        _sync(path)
    for path in paths:
        if path.is_dir():
            path.chmod(allowed)


def _replace(final: Path, temporary: Path) -> None:
    aside = final.with_name(f".{final.name}{_REPLACED}")
    if final.is_symlink() or final.exists():
        _remove(aside)
        final.rename(aside)
    temporary.rename(final)
    with suppress(OSError):  # not every file system knows how
        _sync(final.parent)


def _explain(error: Exception, folder: Path, iteration: int, temporary: Path) -> NoReturn:
    """Say in a sentence what the disk did to a checkpoint; libraries say "unexpected pos" where it is full."""
    number = error.errno if isinstance(error, OSError) else None
    if number in _FULL or _is_full(temporary):
        why = f"the disk that holds {folder} is full"
    elif number is not None:
        why = f"{folder} cannot be written ({_said(error)})"
    else:
        raise error
    raise CheckpointError(
        f"The checkpoint of iteration {iteration} was not written, because {why}; see to it, and continue the run from "
        "the checkpoint before with --resume."
    ) from error


def _is_full(temporary: Path) -> bool:
    try:
        (temporary / ".room").write_bytes(bytes(2**20))
    except OSError as error:
        return error.errno in _FULL
    return False


def _inside(checkpoint: Path, name: Any) -> Path:
    """A listed file, if it is a file of the checkpoint's own.

    Raises:
        ValueError: If it is not.
    """
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
        raise ValueError("its name leads out of the checkpoint")
    path = checkpoint
    for part in parts:
        path = path / part
        if path.is_symlink():
            raise ValueError("it is a link")
    if not stat.S_ISREG(path.lstat().st_mode):
        raise ValueError("it is not a file")
    return path


def _seal(sums: Mapping[str, str], iteration: int) -> str:
    """A checksum over the manifest's own content, so that no entry goes missing."""
    if not isinstance(iteration, int) or isinstance(iteration, bool) or iteration < 0:
        raise TypeError("its iteration is no number")
    if not all(isinstance(value, str) for value in sums.values()):
        raise TypeError("its checksums are no texts")
    lines = [f"{iteration}\n", *(f"{value}  {name}\n" for name, value in sorted(sums.items()))]
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _remove(path: Path) -> None:
    """Remove a folder of ours whole, or a link and not what it points to."""
    if path.is_symlink() or path.is_file():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _said(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error}"
    return (isinstance(error, OSError) and error.strerror) or str(error)[:200] or type(error).__name__
