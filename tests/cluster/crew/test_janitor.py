"""The janitor: whoever has a file of the session open is gone soon after the driver, and so is the folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

# A driver whose child logs into the session's folder and hears of no signal; the driver prints both and waits.
DRIVER = """
import os, signal, subprocess, sys, time
from cluster.crew.janitor import session_folder
folder = session_folder()
with open(os.path.join(folder, "agent.log"), "w") as log:
    child = subprocess.Popen(
        [sys.executable, "-c", "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(100)"],
        stdout=log, start_new_session=True,
    )
print(folder, child.pid, flush=True)
sys.stdin.read()
"""


def wait_until(done: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize("how", ["ends", "killed", "hung up"])
def test_nothing_of_the_session_outlives_its_driver(how: str, tmp_path: Path) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"RAY_TMPDIR": str(tmp_path)},
    )
    assert driver.stdout is not None
    folder, child = driver.stdout.readline().split()
    with open(Path(folder) / "agent.log") as log:  # somebody reads along
        bystander = subprocess.Popen(["sleep", "60"], stdin=log)
    try:
        assert Path(folder).parent == tmp_path
        assert not gone(int(child))
        if how == "ends":
            driver.communicate(timeout=15)
            assert not Path(folder).exists()  # before it returns
        else:
            number = signal.SIGKILL if how == "killed" else signal.SIGHUP
            os.killpg(driver.pid, number)
            driver.wait()
        wait_until(lambda: gone(int(child)))
        wait_until(lambda: not Path(folder).exists())
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_the_paths_of_sockets_are_not_too_long() -> None:
    program = "from cluster.crew.janitor import session_folder; print(session_folder())"
    with tempfile.TemporaryDirectory(dir="/tmp") as short, tempfile.TemporaryDirectory("x" * 20, dir="/tmp") as long:
        for temporary, parent in ((short, short), (long, "/tmp")):
            environment = {key: value for key, value in os.environ.items() if key != "RAY_TMPDIR"}
            found = subprocess.run(
                [sys.executable, "-c", program], env=environment | {"TMPDIR": temporary}, capture_output=True, text=True
            )
            assert str(Path(found.stdout).parent) == parent
