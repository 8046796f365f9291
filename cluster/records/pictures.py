"""Image grids: one row a prompt, the prompt written above it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cluster.text import shown

_GAP = 4  # pixels
_TEXT = 18


def grid(pixels: np.ndarray, prompts: Sequence[str], cell: int = 96) -> Image.Image:
    """A grid of images.

    Args:
        pixels: `(rows, columns, H, W, 3)` uint8.
        prompts: One a row.
        cell: Longer side of an image in the grid, in pixels; small images are enlarged without smoothing.
    """
    rows, columns, *size = pixels.shape[:4]
    height, width = (max(1, cell * side // max(size)) for side in size)
    scale = Image.Resampling.NEAREST if size[1] <= cell else Image.Resampling.LANCZOS
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _GAP + _TEXT) + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, prompt in enumerate(prompts):
        top = _GAP + row * (height + _GAP + _TEXT)
        caption = shorten(shown(" ".join(prompt.split())), pen, font, sheet.width - 2 * _GAP)
        pen.text((_GAP, top), caption, fill="black", font=font)
        for column in range(columns):
            image = Image.fromarray(pixels[row, column]).resize((width, height), scale)
            sheet.paste(image, (_GAP + column * (width + _GAP), top + _TEXT))
    return sheet


def cells(sheet: Image.Image, rows: int, columns: int) -> list[list[Image.Image]]:
    """The images of a `grid`, as large as they stand in it, row by row; raises as `boxes`."""
    return [[sheet.crop(box) for box in row] for row in boxes(sheet.size, rows, columns)]


def boxes(size: tuple[int, int], rows: int, columns: int) -> list[list[tuple[int, int, int, int]]]:
    """Where the images of a `grid` are, row by row: left, upper, right and lower edge.

    Args:
        size: Width and height of the grid.
        rows: Of it.
        columns: Of it.

    Raises:
        ValueError: If it is no grid of so many rows and columns.
    """
    width, wide = divmod(size[0] - _GAP, columns)
    height, high = divmod(size[1] - _GAP, rows)
    width, height = width - _GAP, height - _GAP - _TEXT
    if wide or high or width < 1 or height < 1:
        raise ValueError(f"it is no grid of {rows} rows and {columns} columns")
    corners = [
        [(_GAP + column * (width + _GAP), _GAP + row * (height + _GAP + _TEXT) + _TEXT) for column in range(columns)]
        for row in range(rows)
    ]
    return [[(x, y, x + width, y + height) for x, y in row] for row in corners]


def before_after(before: Image.Image, after: Image.Image) -> Image.Image:
    """Two grids side by side, with a heading each."""
    gap, head = 28, 30
    sheet = Image.new("RGB", (before.width + gap + after.width, head + max(before.height, after.height)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for left, image, title in ((0, before, "before"), (before.width + gap, after, "after")):
        pen.text((left + _GAP, 3), title, fill="black", font=font)
        sheet.paste(image, (left, head))
    return sheet


def shorten(text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """A text as it is, or its longest beginning with an ellipsis that is no wider than so many pixels."""

    def length(text: str) -> float:
        return pen.textlength(text, font=font)

    if length(text) <= width:
        return text
    # The longest beginning that has room, found by halving.
    fits = bisect_right(range(1, len(text)), float(width), key=lambda end: length(text[:end] + "…"))
    return text[:fits] + "…"
