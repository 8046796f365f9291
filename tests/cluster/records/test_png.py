"""Pictures that say how they were made, to Reinoise and to any viewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cluster.errors import WriteError
from cluster.records.png import read_facts, read_pixels, write_png

FACTS = {"prompt": 'a "red" circle\n\u2028é', "seed": 3, "policy": {"eta": None, "targets": ["to_q"]}}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    write_png(tmp_path / "new" / "a.png", Image.fromarray(pixels), FACTS, "a “red” circle")
    assert read_facts(tmp_path / "new" / "a.png") == FACTS
    assert np.array_equal(np.asarray(read_pixels(tmp_path / "new" / "a.png")), pixels)
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.text["Description"] == "a “red” circle"  # type: ignore[attr-defined]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_files_that_say_nothing_are_refused(tmp_path: Path) -> None:
    for name in ("plain.png", "plain.jpg"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        with pytest.raises(ValueError, match="does not say how it was made"):
            read_facts(tmp_path / name)
    (tmp_path / "torn.png").write_bytes((tmp_path / "plain.png").read_bytes()[:20])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("torn.png", "text.png", "missing.png"):
        with pytest.raises(ValueError, match="cannot be read"):
            read_facts(tmp_path / name)


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=str(tmp_path / "file")):
        write_png(tmp_path / "file" / "a.png", Image.new("RGB", (8, 8)), {})
