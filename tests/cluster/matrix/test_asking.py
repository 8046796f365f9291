"""What a judge's answers are kept under."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.config import Config, read_config
from cluster.matrix.asking import ask, judge
from tests.support.run_folder import make_run


def test_a_judge_is_another_where_its_settings_its_source_or_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source, folder, file = tmp_path / "judge_of_mine.py", tmp_path / "head", tmp_path / "head" / "weights.bin"
    source.write_text("def score(images, prompts, path, note=''): return images.mean((1, 2, 3))")
    folder.mkdir()
    file.write_bytes(b"one")

    def name(path: Path | list[Path], note: str = "") -> str:
        named = f"[{', '.join(map(str, path))}]" if isinstance(path, list) else path
        options = f"options: {{path: {named}, note: '{note}'}}"
        words = ["prompts.train=none", f"rewards={{own: {{kind: judge_of_mine:score, weight: 0, {options}}}}}"]
        return judge(read_config(None, words), "own")

    found = [name(folder), name(file), name([file, folder]), name(folder, "a text " * 1000)]
    assert [name(folder), name(file), name([file, folder])] == found[:3]
    file.write_bytes(b"two")
    found += [name(folder), name(file), name([file, folder])]
    source.write_text("def score(images, prompts, path, note=''): return images.amax((1, 2, 3))")
    found += [name(folder), name(file), name([file, folder])]
    assert len(set(found)) == 10
    assert all(one.startswith("own-") for one in found)


def test_how_one_gets_into_a_service_makes_no_other_judge_of_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first")

    def name(kind: str = "grpc://localhost:1", **options: object) -> str:
        reward = {"kind": kind, "weight": 0, "options": options}
        return judge(read_config(None, ["prompts.train=none", f"rewards={json.dumps({'own': reward})}"]), "own")

    token = {"token_file": str(tmp_path / "token")}
    first = name(**token)
    (tmp_path / "token").write_text("second")
    assert first == name(**token) == name(token="third") == name(deadline=5, patience=7)
    assert first != name("grpc://localhost:2", **token)
    assert name("clip", model="a") != name("clip", model="b")


def test_a_run_that_asks_people_is_judged_by_its_other_rewards(make_config: Callable[..., Config]) -> None:
    people = ("rewards={people: {}, shapes_agreement: {weight: 0}}", "prompts.samples=2", "samplers.request_size=2")
    run = make_run(make_config("policy.steps=2", "name=asking", *people))
    idle: dict[str, Any] = dict.fromkeys(("prompts", "most", "seed", "features", "crossed", "pairs"))
    matrix = ask([str(run)], samples=2, rewards=[], every=False, average=False, **idle)
    assert [column.name for column in matrix.columns] == ["shapes_agreement", "shapes_gold", "shapes_agreement"]
    assert matrix.facts["trained_on"] == []
    assert matrix.facts["prompts_of"] == str(run / "prompts" / "held_out" / "held_out.txt")
    assert matrix.facts["settings"] == []
