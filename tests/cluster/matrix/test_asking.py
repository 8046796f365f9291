"""What a judge's answers are kept under."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import read_config
from cluster.matrix.asking import judge


def test_a_judge_is_another_where_its_settings_its_source_or_its_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source, folder, file = tmp_path / "judge_of_mine.py", tmp_path / "head", tmp_path / "head" / "weights.bin"
    source.write_text("def score(images, prompts, path, note=''): return images.mean((1, 2, 3))")
    folder.mkdir()
    file.write_bytes(b"one")

    def name(path: Path, note: str = "") -> str:
        options = f"options: {{path: {path}, note: '{note}'}}"
        words = ["prompts.train=none", f"rewards={{own: {{kind: judge_of_mine:score, weight: 0, {options}}}}}"]
        return judge(read_config(None, words), "own")

    found = [name(folder), name(file), name(folder, "a text " * 1000)]
    assert [name(folder), name(file)] == found[:2]
    file.write_bytes(b"two")
    found += [name(folder), name(file)]
    source.write_text("def score(images, prompts, path, note=''): return images.amax((1, 2, 3))")
    found += [name(folder), name(file)]
    assert len(set(found)) == 7
    assert all(one.startswith("own-") for one in found)
