"""Prompt files as benchmarks publish them, read as records of our own: what is the prompt, and where its picture is.

    DrawBench      CSV with the columns Prompts and Category
    PartiPrompts   TSV with the columns Prompt, Category, Challenge and Note
    HPD v2         JSON, one list of texts a style
    GenEval        JSON lines with tag, include, exclude and prompt (which need nothing here)
    Pick-a-Pic     Parquet with caption and two pictures a row; the pictures are not read, each caption counts once
    TEdBench       JSON, one list of objects with img_name (a file beside the list, or in originals/) and target_text

What stands beside a prompt is its metadata, under its published name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

PROMPT = "prompt"
# What others call the prompt, where nothing has that name.
NAMES = ("Prompts", "Prompt", "prompts", "caption", "target_text")
PAIR = ("jpg_0", "jpg_1")  # the pictures of a row of Pick-a-Pic
STRENGTH = 0.8  # of a picture that comes without one: diffusers' of image to image
_ORIGINALS = "originals"


def prompt_name(names: tuple[str, ...] | list[str]) -> str | None:
    """Which of the names is the prompt's; `None` if none is."""
    return next((name for name in (PROMPT, *NAMES) if name in names), None)


def as_ours(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A record with a `prompt`, and an `image` and a `strength` where it has a picture to begin from.

    Args:
        record: As published.
        folder: Of its file.

    Raises:
        ValueError: If its picture is inside of it, in place of a file; goes on from where the record is.
    """
    name = prompt_name(list(record))
    if name is not None and name != PROMPT:
        record = {PROMPT: record[name], **{key: value for key, value in record.items() if key != name}}
    if "original_image" in record and name == "target_text":
        raise ValueError("holds its picture in itself; take the list with img_name, beside a folder of the pictures")
    if isinstance(picture := record.get("img_name"), str) and "image" not in record:
        inside = f"{_ORIGINALS}/{picture}"
        there = inside if (folder / inside).is_file() else picture
        return {"strength": STRENGTH, **record, "image": there}
    return record
