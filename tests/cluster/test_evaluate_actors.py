"""The command with real actors: broken off and begun again, by other numbers of samplers, it ends in the same files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Config
from cluster.crew.placement import Placement
from cluster.evaluate import main
from cluster.matrix.store import Store
from tests.support.run_folder import make_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a folder, but for pictures of it for people."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if path.suffix != ".png"}


def test_a_resumed_evaluation_equals_an_unbroken_one_bit_for_bit(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {"num_cpus": 0, "runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}
    monkeypatch.setattr("cluster.evaluate.local.place", lambda config: Placement(alone, alone, alone))
    monkeypatch.setattr("cluster.evaluate.ray.shutdown", lambda: None)
    run = make_run(make_config("policy.steps=4", "name=mine"))
    words = [str(run), "--samples", "4", "--features", "shapes_gold"]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    expected = files(tmp_path / "whole")
    keep, kept = Store.keep_pictures, list[Any]()

    def breaking(*args: Any) -> None:
        keep(*args)
        kept.append(args)
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Store, "keep_pictures", breaking)
    assert main([*words, "samplers.count=2", "--out", str(tmp_path / "broken")]) == 130
    there = set(files(tmp_path / "broken"))
    assert there
    assert there < set(expected)
    assert main([*words, "samplers.count=2", "--out", str(tmp_path / "broken")]) == 0
    found = files(tmp_path / "broken")
    facts, facts_of_whole = (json.loads(each.pop("evaluation.json")) for each in (found, expected))
    assert facts.pop("settings") == ["samplers.count=2"]  # what was asked differs, and nothing else
    assert facts_of_whole.pop("settings") == []
    assert facts == facts_of_whole
    assert found == expected
    assert len(kept) == 4  # the two models' two requests: none was drawn twice
