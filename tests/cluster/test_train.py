"""What a job refuses before it joins the cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster import train
from cluster.config import Config
from cluster.crew.placement import Placement
from cluster.errors import ConfigError

PLACEMENT = Placement({}, {}, {})


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "on_cluster", lambda config: PLACEMENT)


def test_a_folder_in_the_copy_that_ray_deletes_with_the_job_is_refused(
    monkeypatch: pytest.MonkeyPatch, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    copy = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError, match="a job's copy of its working directory"):
        train.place(make_config("folder=runs"))
    assert train.place(make_config()) is PLACEMENT  # its folder is absolute


def test_elsewhere_a_relative_folder_is_the_users_own(
    monkeypatch: pytest.MonkeyPatch, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train.place(make_config("folder=runs")) is PLACEMENT
