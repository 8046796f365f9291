"""Checkpoints: whole or not at all, and refused when altered."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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


@pytest.mark.parametrize("make", [Path.touch, lambda path: path.symlink_to("gone")], ids=["file", "dead link"])
def test_what_is_no_folder_is_not_taken_for_no_checkpoints(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "checkpoints")
    for look in (checkpoint.list_all, checkpoint.newest):
        with pytest.raises(CheckpointError, match=r"^The checkpoints in .*/checkpoints cannot be read \("):
            look(tmp_path / "checkpoints")


def test_the_oldest_checkpoints_are_deleted(tmp_path: Path) -> None:
    for iteration in (7, 99, 100):
        write(tmp_path, iteration)
    write(tmp_path, 101, keep=2)
    assert names(tmp_path) == ["iteration-000100", "iteration-000101"]


def test_only_what_is_listed_counts(tmp_path: Path) -> None:
    written = write(tmp_path, 4)
    (written / "old_learner.pt").write_text("a backup")
    assert checkpoint.verify(written) == 4


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_manifest_says_the_one_before_is_used(tmp_path: Path, data: st.DataObject) -> None:
    """Every change of a manifest's content: entries dropped, added or renamed, numbers and types of all kinds."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        before, written = write(Path(folder), 2), write(Path(folder), 4)
        manifest = json.loads((written / "manifest.json").read_text())
        anything = st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=3)
        changed = data.draw(
            st.one_of(
                st.builds(
                    lambda kept: manifest | {"sha256": dict(kept)}, st.just(list(manifest["sha256"].items())[:1])
                ),
                st.builds(lambda value: manifest | {"sha256": value}, st.dictionaries(st.text(), anything, max_size=2)),
                st.builds(
                    lambda name: manifest | {"sha256": manifest["sha256"] | {name: "0"}},
                    st.sampled_from(
                        ["../iteration-000002/learner.pt", "/etc/passwd", "a" * 5000, "average", "\x00", ""]
                    ),
                ),
                st.builds(lambda value: manifest | {"iteration": value}, anything),
                st.builds(lambda key: {k: v for k, v in manifest.items() if k != key}, st.sampled_from(list(manifest))),
                anything,
            )
        )
        (written / "manifest.json").write_text(json.dumps(changed))
        assert checkpoint.newest(Path(folder)) == before


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary() | st.sampled_from([b"[" * 100_000, b'{"a":' * 100_000, b"Infinity"]))
def test_whatever_bytes_a_manifest_holds_they_are_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        written = write(Path(folder), 4)
        (written / "manifest.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"manifest\.json cannot be read"):
            checkpoint.verify(written)


def test_a_copy_under_another_number_is_refused(tmp_path: Path) -> None:
    before = write(tmp_path, 2)
    shutil.copytree(before, tmp_path / "iteration-000009")
    with pytest.raises(CheckpointError, match="holds iteration 2, not 9"):
        checkpoint.verify(tmp_path / "iteration-000009")
    assert checkpoint.newest(tmp_path) == before
    shutil.copytree(before, tmp_path / "elsewhere" / "mine")
    assert checkpoint.verify(tmp_path / "elsewhere" / "mine") == 2


@pytest.mark.parametrize("what", ["learner.pt", "average"])
def test_links_are_never_followed(tmp_path: Path, what: str) -> None:
    written = write(tmp_path / "run", 4)
    (written / what).rename(tmp_path / "outside")
    (written / what).symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match="it is a link"):
        checkpoint.verify(written)


def test_a_link_to_a_checkpoint_is_none_and_its_target_stays(tmp_path: Path) -> None:
    target = write(tmp_path / "elsewhere", 2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "iteration-000002").symlink_to(target)
    assert checkpoint.list_all(tmp_path / "run") == []
    write(tmp_path / "run", 4, keep=1)
    assert checkpoint.verify(target) == 2


def test_checkpoints_are_listed_by_number_and_strange_names_passed_over(tmp_path: Path) -> None:
    for name in ("iteration-1000000", "iteration-000020", "iteration-999999", "iteration-7", "iteration-²", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "iteration-000003").touch()
    assert [path.name for path in checkpoint.list_all(tmp_path)] == [
        "iteration-000020",
        "iteration-999999",
        "iteration-1000000",
    ]


def test_what_a_writer_that_was_killed_left_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".iteration-000004.99999" / "average").mkdir(parents=True)
    write(tmp_path, 6)
    assert names(tmp_path) == ["iteration-000006"]


def test_a_writer_killed_while_it_replaces_one_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, 4, text="old")
    rename = Path.rename

    def killed(self: Path, target: Path) -> Path:
        if target.name == "iteration-000004":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 4, text="new")
    monkeypatch.undo()
    found = checkpoint.newest(tmp_path)
    assert checkpoint.verify(found) == 4
    assert (found / "learner.pt").read_text() == "old"
    write(tmp_path, 6)
    assert names(tmp_path) == ["iteration-000004", "iteration-000006"]


def test_what_came_after_belongs_to_a_run_that_went_back(tmp_path: Path) -> None:
    for iteration in (4, 9):
        write(tmp_path, iteration)
    (tmp_path / "iteration-000009" / "learner.pt").write_text("damaged")
    write(tmp_path, 5, keep=1)
    assert names(tmp_path) == ["iteration-000005"]


@pytest.mark.parametrize(
    ("error", "full", "words"),
    [
        (RuntimeError("[enforce fail at inline_container.cc] . unexpected pos 64 vs 0"), True, "is full"),
        (OSError(errno.ENOSPC, "No space left on device"), False, "is full"),
        (OSError(errno.EIO, "Input/output error"), False, "cannot be written (Input/output error)"),
    ],
)
def test_a_disk_that_fails_is_a_sentence_and_the_checkpoint_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, full: bool, words: str
) -> None:
    before = write(tmp_path, 2)
    monkeypatch.setattr(checkpoint, "_is_full", lambda folder: full)

    def fail() -> None:
        with checkpoint.writing(tmp_path, 4):
            raise error

    with pytest.raises(CheckpointError, match=re.escape(words)) as caught:
        fail()
    assert str(tmp_path) in str(caught.value)
    assert names(tmp_path) == ["iteration-000002"]
    assert checkpoint.newest(tmp_path) == before


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with checkpoint.writing(tmp_path / "run", 1) as temporary:
            (temporary / "private").touch(mode=0o600)
            (temporary / "average").mkdir(mode=0o700)
    finally:
        os.umask(before)
    written = tmp_path / "run" / "iteration-000001"
    modes = {path.name: oct(path.stat().st_mode)[-3:] for path in (written, *written.iterdir())}
    assert modes == {"iteration-000001": "750", "average": "750", "private": "640", "manifest.json": "640"}
