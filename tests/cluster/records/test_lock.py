"""The lock of a run folder: one holder, named to whoever is refused, gone with its process."""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.records import lock

HOLD = """
import pathlib, sys
from cluster.records import lock

held = lock.lock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path: Path) -> None:
    held = lock.lock(tmp_path)
    with pytest.raises(lock.Locked, match=rf"{tmp_path} \(process {os.getpid()} on .*wait until it has ended"):
        lock.lock(tmp_path)
    held.close()
    lock.lock(tmp_path).close()


def test_what_a_link_leads_to_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "of_others").write_text("theirs")
    (tmp_path / lock.NAME).symlink_to(tmp_path / "of_others")
    with pytest.raises(OSError, match="symbolic links"):
        lock.lock(tmp_path)
    assert (tmp_path / "of_others").read_text() == "theirs"


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(lock.Locked, match=f"process {holder.pid}"):
        lock.lock(tmp_path)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    lock.lock(tmp_path).close()


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_on_the_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, removed = fcntl.flock, []

    def late(file, how):  # type: ignore[no-untyped-def]
        if not removed:  # the holder before ends between the opening and the locking
            removed.append((tmp_path / lock.NAME).unlink())
        flock(file, how)

    monkeypatch.setattr(lock.fcntl, "flock", late)
    held = lock.lock(tmp_path)
    with pytest.raises(lock.Locked):
        lock.lock(tmp_path)
    held.close()


def test_storage_that_cannot_lock_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unsupported(file, how):  # type: ignore[no-untyped-def]
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    with caplog.at_level(logging.WARNING):
        lock.lock(tmp_path).close()
    assert len(caplog.records) == 1
    assert str(tmp_path) in caplog.text


def test_whoever_only_looks_sees_whether_it_is_held_and_leaves_nothing(tmp_path: Path) -> None:
    assert not lock.is_held(tmp_path)
    assert list(tmp_path.iterdir()) == []
    held = lock.lock(tmp_path)
    assert lock.is_held(tmp_path)
    held.close()
    assert not lock.is_held(tmp_path)
    lock.lock(tmp_path).close()  # looking has not kept it
