"""Files that are replaced whole: what fails leaves what was there, and nothing else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cluster.errors import WriteError
from cluster.records.files import forget_temporaries, replacing, writable


def test_a_file_takes_its_place_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with replacing(path) as file:
        file.write(b"content")
        assert not path.exists()
    assert path.read_bytes() == b"content"
    assert os.listdir(path.parent) == ["file"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("other"), KeyboardInterrupt()])
def test_what_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")

    def write() -> None:
        with replacing(path) as file:
            file.write(b"after")
            raise error

    with pytest.raises(WriteError if isinstance(error, OSError) else type(error)):
        write()
    assert path.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_in_a_files_place_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / "file" / "inner").mkdir(parents=True)

    def write() -> None:
        with replacing(tmp_path / "file") as file:
            file.write(b"after")

    with pytest.raises(WriteError, match=r"/file is a folder, where a file is to be written; move it away\.$"):
        write()
    assert [path.name for path in tmp_path.rglob("*")] == ["file", "inner"]


def raise_within(error: Exception, folder: str) -> None:
    with writable(Path(folder)):
        raise error


def test_a_full_disk_is_a_sentence_with_the_folder() -> None:
    with pytest.raises(WriteError, match=r"^/runs/x cannot be written to: No space left on device; "):
        raise_within(OSError(errno.ENOSPC, "whatever a library says"), "/runs/x")


def test_the_innermost_folder_is_the_one_that_is_named() -> None:
    with pytest.raises(WriteError, match=r"^/inner "), writable(Path("/outer")):
        raise_within(OSError(errno.EIO, "broken"), "/inner")


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "folder" / "file"):
            pass
    finally:
        os.umask(before)
    assert oct((tmp_path / "folder" / "file").stat().st_mode)[-3:] == "640"
    assert oct((tmp_path / "folder").stat().st_mode)[-3:] == "750"


def test_temporaries_of_killed_writers_are_forgotten_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.1.tmp", "in/.b.2.tmp", "in/b", ".hidden", "c.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    forget_temporaries(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"b", ".hidden", "c.tmp"}
