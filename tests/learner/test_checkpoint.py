"""Checkpoints: whole or not at all, and refused when altered."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from learner import checkpoint
from learner.checkpoint import CheckpointError


def write(folder: Path, iteration: int, keep: int = 0, text: str = "weights") -> Path:
    """A checkpoint of two files, one of them in a folder."""
    with checkpoint.writing(folder, iteration, keep) as temporary:
        (temporary / "learner.pt").write_text(text)
        (temporary / "average").mkdir()
        (temporary / "average" / "lora.safetensors").write_text("average")
    return folder / f"iteration-{iteration:06d}"


def names(folder: Path) -> list[str]:
    """Everything in the folder, hidden entries included."""
    return sorted(path.name for path in folder.iterdir())


def test_a_written_checkpoint_verifies(tmp_path: Path) -> None:
    written = write(tmp_path / "checkpoints", 12)
    assert checkpoint.verify(written) == 12
    assert checkpoint.newest(tmp_path / "checkpoints") == written
    assert (written / "average" / "lora.safetensors").read_text() == "average"


def crash(folder: Path, iteration: int) -> None:
    """Start to write, and fail."""
    with checkpoint.writing(folder, iteration, keep=1) as temporary:
        (temporary / "learner.pt").write_text("half")
        raise OSError("disk full")


def test_a_crash_leaves_nothing_behind(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(OSError, match="disk full"):
        crash(tmp_path, 2)
    assert names(tmp_path) == ["iteration-000001"]


def test_a_crash_keeps_the_checkpoint_that_it_would_have_replaced(tmp_path: Path) -> None:
    write(tmp_path, 1)
    with pytest.raises(OSError, match="disk full"):
        crash(tmp_path, 1)
    assert checkpoint.verify(tmp_path / "iteration-000001") == 1
    assert (tmp_path / "iteration-000001" / "learner.pt").read_text() == "weights"


def test_nothing_is_called_a_checkpoint_before_it_is_whole(tmp_path: Path) -> None:
    with checkpoint.writing(tmp_path, 3) as temporary:
        (temporary / "learner.pt").write_text("half")
        with pytest.raises(CheckpointError, match="no usable checkpoint"):
            checkpoint.newest(tmp_path)
    assert checkpoint.newest(tmp_path).name == "iteration-000003"


def test_a_checkpoint_of_the_same_name_is_replaced(tmp_path: Path) -> None:
    write(tmp_path, 1, text="old")
    assert (write(tmp_path, 1, text="new") / "learner.pt").read_text() == "new"
    assert checkpoint.verify(tmp_path / "iteration-000001") == 1
    assert names(tmp_path) == ["iteration-000001"]


@pytest.mark.parametrize("file", ["learner.pt", "average/lora.safetensors", "manifest.json"])
@pytest.mark.parametrize("harm", ["altered", "truncated", "missing"])
def test_a_harmed_file_is_named(tmp_path: Path, file: str, harm: str) -> None:
    written = write(tmp_path, 1)
    content = (written / file).read_bytes()
    if harm == "altered":
        (written / file).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    elif harm == "truncated":
        (written / file).write_bytes(content[: len(content) // 2])
    else:
        (written / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        checkpoint.verify(written)


@pytest.mark.parametrize("content", ["[]", '{"iteration": 1}', '{"sha256": {}, "iteration": null}', "null"])
def test_a_manifest_of_something_else_is_refused(tmp_path: Path, content: str) -> None:
    written = write(tmp_path, 1)
    (written / "manifest.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"manifest\.json"):
        checkpoint.verify(written)


def test_the_one_before_a_damaged_checkpoint_is_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for iteration in (8, 9, 10):
        write(tmp_path, iteration)
    (tmp_path / "iteration-000010" / "learner.pt").write_text("altered")
    (tmp_path / "iteration-000009" / "manifest.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest(tmp_path).name == "iteration-000008"
    assert ["000010" in caplog.text, "000009" in caplog.text, "000008" in caplog.text] == [True, True, False]


@pytest.mark.parametrize("folder", ["empty", "missing"])
def test_no_checkpoint_is_an_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=folder):
        checkpoint.newest(tmp_path / folder)


def test_the_oldest_checkpoints_are_deleted(tmp_path: Path) -> None:
    for iteration in (7, 99, 100):
        write(tmp_path, iteration)
    write(tmp_path, 101, keep=2)
    assert names(tmp_path) == ["iteration-000100", "iteration-000101"]
