"""Names of models: which are folders and which the hub's, and what is said of one that is nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors import model_files
from actors.model_files import is_local, local_folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a folder of runs, and an empty cache of the hub."""
    (tmp_path / "here" / "runs" / "first").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(model_files, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("name", "local"),
    [
        ("black-forest-labs/FLUX.1-dev", False),
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", False),
        ("runs/first", True),
        ("runs/typo", True),
        ("runs/", True),
        ("./runs", True),
        ("~/model", True),
        ("model", True),
        ("a/b/c", True),
        ("/a/b", True),
        ("my models/sd", True),
        ("a--b/c", True),
    ],
)
def test_a_name_is_a_folder_s_or_the_hub_s(name: str, local: bool) -> None:
    assert is_local(name) == local


def test_what_has_been_fetched_is_the_hub_s_whatever_is_beside_it(tmp_path: Path) -> None:
    (tmp_path / "cache" / "models--runs--typo").mkdir(parents=True)
    assert not is_local("runs/typo")
    assert is_local("runs/other")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "runs/frist",
            "here/runs/frist, nor such a folder (near it is 'first'); to take runs/frist from the hub, fetch",
        ),
        ("./runs/second", "here/runs/second, nor such a folder; set policy.model to"),
        ("nothing", "here/nothing, nor such a folder; set policy.model to"),
        ("runs/first", "here/runs/first (no model_index.json); set policy.model to"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(name: str, said: str) -> None:
    with pytest.raises(FileNotFoundError, match=r"^There is no diffusers pipeline [^\n]+\.$") as caught:
        local_folder(name)
    assert said in str(caught.value)
