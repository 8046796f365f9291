"""PNG files that say how they were made: a JSON object in a text chunk, beside what any viewer shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from cluster.records.files import replacing

_CHUNK = "reinoise"


def write_png(path: Path, image: Image.Image, facts: Mapping[str, Any], description: str = "") -> None:
    """Write a picture, whole or not at all.

    Args:
        path: Where to.
        image: The picture.
        facts: How it was made, as JSON has it.
        description: What it shows, for viewers.

    Raises:
        WriteError: If it cannot be written.
    """
    chunks = PngInfo()
    chunks.add_text(_CHUNK, json.dumps(facts))
    chunks.add_text("Software", "Reinoise")
    if description:
        chunks.add_itxt("Description", description)
    with replacing(path) as file:
        image.save(file, format="PNG", pnginfo=chunks)


def read_facts(path: Path) -> dict[str, Any]:
    """How a picture was made.

    Raises:
        ValueError: If the file does not say so, or is no picture; the message goes on from the file's name.
    """
    try:
        with Image.open(path) as image:
            text = image.text.get(_CHUNK) if isinstance(image, PngImageFile) else None
        facts = json.loads(text) if text else None
    except (OSError, SyntaxError, ValueError, RecursionError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(facts, dict):
        raise ValueError("does not say how it was made: it is no picture of cluster.generate, or was saved anew")
    return facts


def read_pixels(path: Path) -> Image.Image:
    """A picture, in memory, as RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")
