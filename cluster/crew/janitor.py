"""The process that takes away what Ray leaves behind when a driver on one machine is gone, however it went.

Ray's daemons and workers follow a driver that is killed within seconds, but its agents and its session's files stay for
good. So everything of a session is below one folder, and this process, which no signal of the driver's terminal
reaches, waits for the driver's end of a pipe to close. Then it kills whoever writes to a file below the folder, which
all of Ray's processes and what they started do (their logs), and removes the folder.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

_LONGEST = 24  # letters of the folder's parent: the paths of Unix sockets are limited to 107, and Ray's add 83
_PATIENCE = 30.0  # seconds until what cannot be killed or removed is left alone


def session_folder() -> str:
    """Make the folder of a Ray session, which is gone soon after this process.

    Raises:
        OSError: If it cannot be made.
    """
    usual = tempfile.gettempdir()
    root = os.environ.get("RAY_TMPDIR") or (usual if len(usual) <= _LONGEST else "/tmp")
    folder = tempfile.mkdtemp(prefix="reinoise-", dir=root)
    command = [sys.executable, __file__, folder, str(os.getpid())]
    janitor = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True)
    atexit.register(janitor.communicate)  # closes the pipe, and waits
    return folder


def clean(folder: Path, driver: int) -> None:
    """Kill whoever writes to a file below a folder, apart from a driver that still lives, and remove it."""
    deadline = time.monotonic() + _PATIENCE
    while (writers := _writers(folder, {driver, os.getpid()})) and time.monotonic() < deadline:
        for process in writers:
            with contextlib.suppress(psutil.Error):
                process.kill()
        time.sleep(0.1)
    shutil.rmtree(folder, ignore_errors=True)


def _writers(folder: Path, others: set[int]) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        if process.pid not in others:
            with contextlib.suppress(psutil.Error, OSError):  # it is gone, or another user's
                # Only Linux tells the mode.
                written = [file.path for file in process.open_files() if getattr(file, "mode", "w") != "r"]
                if any(folder in Path(path).parents for path in written):
                    found.append(process)
    return found


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.read()
    clean(Path(sys.argv[1]).resolve(), int(sys.argv[2]))
