"""One driver a run folder: a lock of the file system's, which ends with the process that holds it, however it ends."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from pathlib import Path
from typing import TextIO

from cluster.errors import Locked

log = logging.getLogger(__name__)

NAME = "driver.lock"


def lock(folder: Path) -> TextIO:
    """Take the lock of a folder; it lasts until the file that this returns is closed, or the process is gone.

    Host and process stand in the file, for whoever is refused. On storage that all nodes of a cluster share the lock
    holds between nodes as far as the storage can lock; where it cannot, a warning says so.

    Raises:
        Locked: If another has it.
        OSError: If the file cannot be made.
    """
    path = folder / NAME
    while True:
        # NFS locks only what is open for writing; and what a link leads to is not ours to write into.
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        file = os.fdopen(descriptor, "a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200).strip() or "another process"
            file.close()
            raise Locked(
                f"A driver is at work in {folder} ({holder}); wait until it has ended, or stop it first."
            ) from None
        except OSError as error:
            log.warning("%s cannot be locked (%s); take care that no second driver uses it.", folder, error.strerror)
        if _is_current(path, file):
            break
        file.close()  # whoever held it has just removed it: take the lock of the next file of the name
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file


def is_held(folder: Path) -> bool:
    """Whether a driver is at work in a folder, as far as can be told by looking."""
    try:
        with (folder / NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _is_current(path: Path, file: TextIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
