"""The pictures that runs keep and folders hold."""

from __future__ import annotations

import errno
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cluster.errors import ConfigError
from cluster.evaluation import sample_grid
from cluster.gallery import gallery, pictures
from cluster.records.grids import COLUMNS, ROWS
from cluster.records.parts import Parts
from cluster.records.pictures import grid
from cluster.records.png import write_png
from rewards.people.asking import Picture

PROMPTS = ("a red circle", "a blue star")


def colour(data: bytes) -> tuple[int, ...]:
    with Image.open(BytesIO(data)) as image:
        return image.convert("RGB").getpixel((image.width // 2, image.height // 2))  # type: ignore[return-value]


def plain(value: int) -> Image.Image:
    return Image.new("RGB", (8, 8), (value, value, value))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with two evaluations of two prompts x three samples, whose pictures say which they are."""
    folder = tmp_path / "run"
    (folder / "images").mkdir(parents=True)
    (folder / "config.yaml").write_text("rewards: {a: {weight: 2.0}, b: {weight: -1.0}, watched: {weight: 0}}\n")
    for iteration in (0, 12):
        values = iteration * 10 + 10 * np.arange(2)[:, None] + np.arange(3)
        pixels = np.broadcast_to(values[..., None, None, None], (2, 3, 8, 8, 3)).astype(np.uint8)
        grid(pixels, PROMPTS).save(folder / "images" / f"train-{iteration:06d}.png")
        rows = [
            {"split": split, "prompt": PROMPTS[p], "prompt_index": p, "sample_index": s, "a": p + s, "b": score}
            for split in ("training", "train")
            for p in range(2)
            for s, score in enumerate((0.5, 1.5, None if p else 2.5))
        ]
        rows.append({**rows[-1], "sample_index": 99})  # which the grid has no room for
        Parts(folder / "samples.parquet").write(iteration, pa.Table.from_pylist(rows))
    grid(np.zeros((2, 3, 8, 8, 3), np.uint8), PROMPTS).save(folder / "images" / "train-before-after.png")
    return folder


def test_the_newest_grids_of_a_run_come_apart_into_its_pictures(run: Path) -> None:
    found = pictures(str(run))
    assert [picture.prompt for picture in found] == [PROMPTS[0]] * 3 + [PROMPTS[1]] * 3
    assert [colour(picture.read())[0] for picture in found] == [120, 121, 122, 130, 131, 132]
    assert [picture.score for picture in found] == [-0.5, 0.5, 1.5, 1.5, 2.5, None]


def test_an_older_evaluation_is_named(run: Path) -> None:
    assert [colour(picture.read())[0] for picture in pictures(f"{run}@0")] == [0, 1, 2, 10, 11, 12]
    with pytest.raises(ConfigError, match="has no evaluation 3, but 0, 12"):
        pictures(f"{run}@3")
    both = gallery([f"{run}@0", str(run)])
    assert [picture.model for picture in both] == ["run@0"] * 6 + ["run"] * 6


def test_as_many_rows_and_columns_are_read_as_are_drawn() -> None:
    drawn = inspect.signature(sample_grid).parameters
    assert (drawn["rows"].default, drawn["columns"].default) == (ROWS, COLUMNS)


def test_a_run_is_read_without_ray_or_torch(run: Path) -> None:
    code = (
        "import sys, cluster.label; from cluster.gallery import gallery; "
        f"print(len(gallery([{str(run)!r}])), {{'torch', 'ray', 'diffusers', 'transformers'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "6 set()\n", done.stderr


def test_a_folder_for_each_prompt(tmp_path: Path) -> None:
    for prompt in PROMPTS:
        (tmp_path / prompt).mkdir()
        for number in range(2):
            plain(number).save(tmp_path / prompt / f"{number}.png")
    (tmp_path / PROMPTS[0] / "notes.txt").write_text("x")
    found = pictures(str(tmp_path))
    assert sorted(picture.prompt for picture in found) == sorted(PROMPTS * 2)
    assert colour(found[1].read()) == (1, 1, 1)


def test_pictures_of_generate_say_their_prompts(tmp_path: Path) -> None:
    for number, base in enumerate((False, True)):
        write_png(tmp_path / f"{number}.png", plain(number), {"prompt": "a star", "base": base})
    write_png(tmp_path / "grid.png", plain(9), {"grid": 2})
    plain(3).save(tmp_path / "other.png")
    found = pictures(str(tmp_path))
    assert [(picture.prompt, picture.model) for picture in found] == [("a star", "trained"), ("a star", "pretrained")]


def test_metadata_lists_files_prompts_models_and_scores(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/x.png", "y.png"):
        plain(7).save(tmp_path / name)
    records = [
        {"file_name": "in/x.png", "text": "a star"},
        {"file_name": "y.png", "prompt": "a star", "model": "m", "score": 2},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n\n")
    one, other = pictures(str(tmp_path))
    assert one[:1] + one[2:] == ("a star", None, None)
    assert other[:1] + other[2:] == ("a star", "m", 2.0)
    assert gallery([str(tmp_path)]) != []
    assert isinstance(one, Picture)


@pytest.mark.parametrize(
    "line",
    [
        '{"file_name": "../x.png", "prompt": "a"}',
        '{"file_name": "no.png", "prompt": "a"}',
        '{"file_name": "x.png\\u0000", "prompt": "a"}',
        '{"file_name": "%s", "prompt": "a"}' % ("x" * 999),
        '{"file_name": "loop.png", "prompt": "a"}',
    ],
)
def test_metadata_names_nothing_outside(tmp_path: Path, line: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    plain(0).save(tmp_path / "x.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "metadata.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=r"Line 1 of .* which is no file of the folder"):
        pictures(str(folder))


@pytest.mark.parametrize("line", ["[]", "{", '{"prompt": "a"}', '{"file_name": 3, "prompt": "a"}', "[" * 200_000])
def test_metadata_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "metadata.jsonl").write_text(line)
    with pytest.raises(ConfigError, match=r"Line 1 of .* is no JSON object with file_name and prompt"):
        pictures(str(tmp_path))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (b'"score": NaN', "Line 2 of .* has a score that is no finite number"),
        (b'"score": 1e999', "Line 2 of .* has a score that is no finite number"),
        (b'"score": 1' + b"0" * 400, "Line 2 of .* has a score that is no finite number"),
        (b'"score": []', "Line 2 of .* has a score that is no finite number"),
        (b'"text": "a \\ud800"', "Line 2 of .* has half a character"),
        (b'"model": "\\udfff"', "Line 2 of .* has half a character"),
        (b'"model": "\xe9"', r"metadata\.jsonl cannot be read: line 2 is not UTF-8 \(byte 0xe9\)"),
    ],
)
def test_metadata_that_cannot_be_shown_or_sorted_is_refused(tmp_path: Path, more: bytes, words: str) -> None:
    plain(0).save(tmp_path / "x.png")
    prompt = b"" if b"text" in more else b'"prompt": "a", '
    (tmp_path / "metadata.jsonl").write_bytes(b'\n{"file_name": "x.png", ' + prompt + more + b"}")
    with pytest.raises(ConfigError, match=words):
        pictures(str(tmp_path))


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()

    def closed(path: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(tmp_path))} cannot be read \(Permission denied\)\.$"):
        pictures(str(tmp_path))


def test_what_has_no_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no pictures with prompts"):
        pictures(str(tmp_path))
    with pytest.raises(ConfigError, match="There is no folder"):
        pictures(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=re.escape("has no evaluation 3")):
        pictures(f"{tmp_path}@3")
    (tmp_path / "config.yaml").write_text("rewards: {}")
    with pytest.raises(ConfigError, match="has not been evaluated"):
        pictures(str(tmp_path))
