"""A driver's hold on a run folder: exclusive while it lives, and without a trace if the run never begins."""

from __future__ import annotations

import itertools
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from cluster.errors import ConfigError, Locked
from cluster.records import lock
from cluster.records.reading import CONFIG, PROMPTS


@dataclass
class Claim:
    """A run folder that belongs to this process."""

    path: Path
    file: TextIO  # the lock
    made: list[Path]  # folders that were not there before, the innermost first

    def release(self) -> None:
        """Let others have the folder; one in which no run has begun is removed, as far as it was made for it."""
        if not (self.path / CONFIG).exists():
            shutil.rmtree(self.path / PROMPTS, ignore_errors=True)
            (self.path / lock.NAME).unlink(missing_ok=True)
            for folder in self.made:
                with suppress(OSError):  # others may have put something there
                    folder.rmdir()
        self.file.close()


def claim_new(folder: Path, name: str | None, otherwise: str) -> Claim:
    """Claim the folder of a new run.

    Args:
        folder: Where runs are kept.
        name: Of the run.
        otherwise: What a run without a name is called; a number is added where another has that name.

    Raises:
        ConfigError: If the name is no folder's name, or the folder is in use or cannot be made.
    """
    if name is not None:
        if name in ("", ".", "..") or "/" in name or not name.isprintable():
            raise ConfigError(
                f"name={name!r} is not the name of one folder; choose where runs are kept with folder=..., and a name "
                "without slashes or control characters."
            )
        return _claim(folder / name)
    for number in itertools.count(1):
        path = folder / (otherwise if number == 1 else f"{otherwise}-{number}")
        if not path.exists():
            with suppress(FileExistsError):
                return _claim(path, exist_ok=False)
    raise AssertionError


def claim_existing(path: Path) -> Claim:
    """Claim the folder of a run that is to go on.

    Raises:
        ConfigError: If another driver has it, or it cannot be written to.
    """
    try:
        return Claim(path, lock.lock(path), [])
    except Locked as error:
        raise ConfigError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"The run in {path} cannot be continued: {error.strerror}.") from error


def _claim(path: Path, exist_ok: bool = True) -> Claim:
    made = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
        _check_vacant(path)
        file = lock.lock(path)
    except Locked as error:
        raise ConfigError(f"{str(error).rstrip('.')}; or set another name.") from error
    except FileExistsError:
        if exist_ok:
            raise ConfigError(f"{path} is a file; set another name, or another folder.") from None
        raise
    except OSError as error:
        raise ConfigError(f"The run folder {path} cannot be made ({error.strerror}).") from error
    try:
        _check_vacant(path)
    except ConfigError:
        file.close()
        raise
    shutil.rmtree(path / PROMPTS, ignore_errors=True)  # of a driver that was killed before its run began
    return Claim(path, file, made)


def _check_vacant(path: Path) -> None:
    names = {entry.name for entry in path.iterdir()}
    if CONFIG in names:
        raise ConfigError(f"{path} exists already; continue it with --resume {path}, or set another name.")
    if names - ({lock.NAME, PROMPTS} if lock.NAME in names else set()):
        raise ConfigError(f"{path} exists already and holds other files than a run's; set another name.")
