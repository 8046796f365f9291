"""A hold on a run folder: exclusive, of one folder's name, and without a trace if no run begins."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import ConfigError
from cluster.records.claim import claim_existing, claim_new


def test_a_claim_in_which_no_run_begins_leaves_nothing(tmp_path: Path) -> None:
    claim = claim_new(tmp_path / "a" / "b", "x", "other")
    (claim.path / "prompts" / "train").mkdir(parents=True)
    claim.release()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_were_there_before_stay(tmp_path: Path) -> None:
    (tmp_path / "runs" / "x").mkdir(parents=True)
    claim_new(tmp_path / "runs", "x", "other").release()
    assert list((tmp_path / "runs").rglob("*")) == [tmp_path / "runs" / "x"]


def test_a_run_that_has_begun_stays(tmp_path: Path) -> None:
    claim = claim_new(tmp_path, "x", "other")
    (claim.path / "config.yaml").touch()
    claim.release()
    assert (tmp_path / "x" / "config.yaml").exists()
    with pytest.raises(ConfigError, match=f"exists already; continue it with --resume {tmp_path / 'x'}"):
        claim_new(tmp_path, "x", "other")
    claim_existing(tmp_path / "x").release()


def test_a_second_claim_is_refused_while_the_first_lasts(tmp_path: Path) -> None:
    claim = claim_new(tmp_path, "x", "other")
    for second in (lambda: claim_new(tmp_path, "x", "other"), lambda: claim_existing(tmp_path / "x")):
        with pytest.raises(ConfigError, match="A driver is at work in"):
            second()
    claim.release()
    claim_new(tmp_path, "x", "other").release()


def test_what_a_driver_that_was_killed_at_its_start_left_is_reused(tmp_path: Path) -> None:
    killed = claim_new(tmp_path, "x", "other")
    (killed.path / "prompts" / "train").mkdir(parents=True)
    (killed.path / "prompts" / "train" / "old.txt").touch()
    killed.file.close()
    again = claim_new(tmp_path, "x", "other")
    assert not (again.path / "prompts").exists()
    again.release()


@pytest.mark.parametrize("name", ["notes.txt", "prompts/mine.txt"])
def test_a_folder_with_files_of_others_is_refused_and_not_touched(tmp_path: Path, name: str) -> None:
    (tmp_path / "x" / name).parent.mkdir(parents=True)
    (tmp_path / "x" / name).touch()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="holds other files"):
        claim_new(tmp_path, "x", "other")
    assert sorted(tmp_path.rglob("*")) == before


def test_runs_without_a_name_that_start_in_one_second_do_not_collide(tmp_path: Path) -> None:
    claims = [claim_new(tmp_path, None, "ppod-1") for _ in range(3)]
    assert [claim.path.name for claim in claims] == ["ppod-1", "ppod-1-2", "ppod-1-3"]
    for claim in claims:
        claim.release()


@given(
    st.one_of(
        st.sampled_from(["", ".", "..", "../../zzz", "/etc/x", "a/b", "x/", "a\nb", "a\x00b", "\x1b[31mred"]),
        st.builds("{}/{}".format, st.text(), st.text()),
        st.builds("{}{}".format, st.text(), st.characters(categories=["Cc", "Zl", "Zp", "Cs"])),
    )
)
def test_names_that_are_not_one_folders_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="is not the name of one folder"):
        claim_new(Path("/proc/nowhere"), name, "other")


@pytest.mark.parametrize("name", ["x" * 300, "file"])
def test_folders_that_cannot_be_made_are_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"set another name|cannot be made"):
        claim_new(tmp_path, name, "other")
    with pytest.raises(ConfigError, match="cannot be made"):
        claim_new(tmp_path / "file", "x", "other")
