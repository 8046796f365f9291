"""Start images of prompts (image to image, SDEdit): where they are, whether they can be had, where a chain begins.

A prompt's `image` is a path in the folder of its file, and its `strength` says how much of the chain it goes through:
of T steps the last int(T strength), as in diffusers' StableDiffusionImg2ImgPipeline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from rewards.prompt import Prompt

_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # PIL's RGB of these is white from 255 on
_READING = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what PIL raises of files


def with_start(text: str, record: Mapping[str, Any], folder: Path) -> Prompt:
    """A prompt whose `image`, if it has one, is the whole path.

    Args:
        text: The prompt.
        record: Its metadata.
        folder: Of its file.

    Raises:
        ValueError: If image and strength are not what they must be; goes on from where the prompt is.
    """
    if not record.get("image") and record.get("strength") is None:
        return Prompt(text, record)
    image, strength = record.get("image"), record.get("strength")
    if not isinstance(image, str) or not image:
        raise ValueError(
            f"has an 'image' or a 'strength', which are of image to image, but the image {image!r:.60} is no text, the "
            "path of the picture to begin from"
        )
    if isinstance(strength, bool) or not isinstance(strength, int | float) or not 0 < strength <= 1:
        raise ValueError(f"has the image {image!r} and no 'strength' above 0 and up to 1, but {strength!r}")
    if Path(image).is_absolute() or ".." in Path(image).parts:
        raise ValueError(
            f"has the image {image!r} outside of the prompt file's folder, where a run would lose it; put it there, "
            "and give its path from there"
        )
    return Prompt(text, {**record, "image": str(folder.absolute() / image), "strength": float(strength)})


def image_of(prompt: str) -> Path | None:
    """Where the picture is that a prompt begins from; `None` if it begins from noise."""
    metadata = getattr(prompt, "metadata", {})
    return Path(metadata["image"]) if metadata.get("image") and "strength" in metadata else None


def first_step(prompt: str, steps: int) -> int:
    """The first step of a prompt's chain.

    Args:
        prompt: With a start image or without.
        steps: Of the whole chain.
    """
    if image_of(prompt) is None:
        return 0
    return steps - min(int(steps * prompt.metadata["strength"]), steps)  # type: ignore[attr-defined]


def load_start(path: Path) -> np.ndarray:
    """The picture `(H, W, 3)` uint8 of a file, upright.

    Raises:
        ValueError: If it cannot be had.
    """
    try:
        with Image.open(path) as image:
            if image.mode in _DEEP:
                raise ValueError(f"it has more than 8 bits a channel, as {image.mode}; save it with 8")
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except _READING as error:
        raise ValueError(f"the start image {path} cannot be read ({' '.join(str(error).split())})") from error


def check_starts(prompts: Iterable[str], steps: int) -> None:
    """Refuse prompts that a chain cannot begin from.

    Args:
        prompts: Any number.
        steps: Of the whole chain.

    Raises:
        ValueError: If an image is missing or damaged, or a strength leaves no step.
    """
    read = set()
    for prompt in prompts:
        if (path := image_of(prompt)) is None:
            continue
        if path not in read:
            load_start(path)  # all of it: the header of a file that breaks off is whole
            read.add(path)
        if first_step(prompt, steps) == steps:
            raise ValueError(
                f"the prompt {str(prompt)[:60]!r} has the strength {prompt.metadata['strength']:g}, "  # type: ignore[attr-defined]
                f"which leaves none of policy.steps={steps}; give at least {1 / steps:.3g}"
            )
