"""Prompt files of benchmarks in their published formats, as a run, a picture and an evaluation read them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from cluster.prompts import read_prompts
from cluster.start_images import check_starts, first_step, image_of


def read(path: Path, text: str) -> list[tuple[str, dict]]:
    """The prompts of a file of some text, with their metadata."""
    path.write_text(text, encoding="utf-8")
    return [(str(prompt), dict(prompt.metadata)) for prompt in read_prompts(str(path))]


def test_drawbench(tmp_path: Path) -> None:
    text = "Prompts,Category\nA red colored car.,Colors\n\"A sign that says 'NeurIPS', twice.\",Text\n"
    assert read(tmp_path / "drawbench.csv", text) == [
        ("A red colored car.", {"Category": "Colors"}),
        ("A sign that says 'NeurIPS', twice.", {"Category": "Text"}),
    ]


def test_partiprompts(tmp_path: Path) -> None:
    """Numbers are prompts, an empty note is none, and a cell that begins with a quote ends where the tab is."""
    text = (
        "Prompt\tCategory\tChallenge\tNote\n42\tAbstract\tBasic\tSimple numbers but challenging\n0\tAbstract\tBasic\t\n"
        '"G I G G L E" painted as graffiti\tIllustrations\tWriting & Symbols\t\n'
    )
    assert read(tmp_path / "PartiPrompts.tsv", text) == [
        ("42", {"Category": "Abstract", "Challenge": "Basic", "Note": "Simple numbers but challenging"}),
        ("0", {"Category": "Abstract", "Challenge": "Basic"}),
        ('"G I G G L E" painted as graffiti', {"Category": "Illustrations", "Challenge": "Writing & Symbols"}),
    ]


def test_hpd(tmp_path: Path) -> None:
    assert read(tmp_path / "anime.json", '["Walter White as a king.",\n "A hyena fursona."]') == [
        ("Walter White as a king.", {}),
        ("A hyena fursona.", {}),
    ]
    listed = [{"prompt": "an owl", "image_path": ["1.jpg", "2.jpg"], "rank": [1, 0]}]
    assert read(tmp_path / "test.json", json.dumps(listed)) == [
        ("an owl", {"image_path": ["1.jpg", "2.jpg"], "rank": [1, 0]})
    ]


def test_geneval(tmp_path: Path) -> None:
    line = {"tag": "counting", "include": [{"class": "bench", "count": 2}], "prompt": "a photo of two benches"}
    found = read(tmp_path / "evaluation_metadata.jsonl", json.dumps(line) + "\n")
    assert found == [("a photo of two benches", {"tag": "counting", "include": [{"class": "bench", "count": 2}]})]


def test_pick_a_pic(tmp_path: Path) -> None:
    """Each caption once, in the order of the rows."""
    rows = [{"jpg_0": b"no picture", "jpg_1": b"", "caption": text, "label_0": 1.0} for text in ("a cat", "b", "a cat")]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    found = read_prompts(str(tmp_path / "train.parquet"))
    assert found == ("a cat", "b")
    assert not any(prompt.metadata for prompt in found)


def test_captions_of_other_tables_keep_what_is_beside_them(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"caption": ["a cat", "a cat"], "n": [1, 2]}), tmp_path / "p.parquet")
    found = read_prompts(str(tmp_path / "p.parquet"))
    assert [(str(prompt), dict(prompt.metadata)) for prompt in found] == [("a cat", {"n": 1}), ("a cat", {"n": 2})]


def test_tedbench_begins_from_its_pictures(tmp_path: Path) -> None:
    (tmp_path / "originals").mkdir()
    for name in ("originals/dog.png", "cat.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    listed = [
        {"img_name": "dog.png", "target_text": "A photo of a sitting dog."},
        {"img_name": "cat.png", "target_text": "A photo of a cat.", "strength": 0.5},
    ]
    (tmp_path / "input_list.json").write_text(json.dumps(listed))
    prompts = read_prompts(str(tmp_path / "input_list.json"))
    assert prompts == ("A photo of a sitting dog.", "A photo of a cat.")
    assert [image_of(prompt) for prompt in prompts] == [tmp_path / "originals/dog.png", tmp_path / "cat.png"]
    assert [first_step(prompt, 10) for prompt in prompts] == [2, 5]
    check_starts(prompts, 10)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("p.json", b'["a cat", 3]', ["element 2", "'prompt'"]),
        ("p.json", b'[{"prompt": "a"}, {"target": "b"}]', ["element 2", "'prompt'"]),
        ("p.json", b'[{"target_text": "a", "original_image": "x"}]', ["element 1", "img_name"]),
        ("p.json", b'[{"target_text": "a", "img_name": "../x.png"}]', ["element 1", "outside"]),
        ("p.json", b'["a\\u0000"]', ["element 1", r"'\x00'"]),
        ("p.json", b"[]", ["holds no prompt"]),
        ("p.tsv", b"Text\tCategory\na\tb\n", ["no column 'prompt', but 'Text', 'Category'"]),
        ("p.tsv", b"Prompt\tCategory\na\n", ["no table", "Expected 2 columns, got 1"]),
    ],
)
def test_what_is_in_no_such_format_is_refused(tmp_path: Path, name: str, data: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=r"^the prompt file [^\n]+$") as caught:
        read_prompts(str(tmp_path / name))
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_name_of_ours_counts_before_those_of_others(tmp_path: Path) -> None:
    assert read(tmp_path / "p.jsonl", '{"prompt": "a cat", "caption": "a dog"}\n') == [("a cat", {"caption": "a dog"})]
