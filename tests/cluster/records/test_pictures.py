"""Image grids: every sample in its place, and captions that fit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageChops, ImageDraw, ImageFont

from cluster.records.pictures import before_after, cells, grid, shorten


def plain(rows: int, columns: int, side: int = 8) -> np.ndarray:
    """Images of one colour each: red says the row, green the column."""
    pixels = np.zeros((rows, columns, side, side, 3), np.uint8)
    pixels[..., 0] = 40 + 10 * np.arange(rows)[:, None, None, None]
    pixels[..., 1] = 40 + 10 * np.arange(columns)[None, :, None, None]
    return pixels


def colours(sheet: Image.Image) -> list[tuple[int, int]]:
    """Row and column of every cell on a sheet of `plain` images, from top left to bottom right."""
    flat = np.asarray(sheet)
    cells: dict[tuple[int, int], tuple[int, int]] = {}
    for y, x in np.argwhere(flat[..., 2] == 0):
        if flat[y, x, 0] >= 40 and flat[y, x, 1] >= 40:
            cells.setdefault(tuple(map(int, (flat[y, x, :2] - 40) // 10)), (int(y), int(x)))  # type: ignore[arg-type]
    return sorted(cells, key=cells.__getitem__)


@pytest.mark.parametrize("side", [4, 16, 40])
def test_each_sample_is_in_its_row_and_column(side: int) -> None:
    sheet = grid(plain(3, 2, side), ["a", "b", "c"], cell=16)
    assert colours(sheet) == [(row, column) for row in range(3) for column in range(2)]
    assert (np.asarray(sheet)[..., 2] == 0).sum() >= 3 * 2 * 16 * 16


@pytest.mark.parametrize(("height", "width"), [(8, 24), (24, 8)])
def test_pictures_that_are_not_square_keep_their_shape_without_a_gap(height: int, width: int) -> None:
    pixels = np.zeros((2, 3, height, width, 3), np.uint8)
    sheet = np.asarray(grid(pixels, ["", ""], cell=48))
    dark = (sheet == 0).all(axis=-1)
    assert dark.sum() == 2 * 3 * (2 * height) * (2 * width)
    assert sheet.shape == (2 * (2 * height + 4 + 18) + 4, 3 * (2 * width + 4) + 4, 3)


def test_small_images_keep_hard_edges_and_large_ones_are_averaged() -> None:
    stripes = np.zeros((1, 1, 8, 8, 3), np.uint8)
    stripes[..., ::2, :] = 255
    assert set(np.unique(np.asarray(grid(stripes, [""], cell=32)))) == {0, 255}
    shrunk = np.asarray(grid(np.tile(stripes, (1, 1, 8, 8, 1)), [""], cell=8))
    assert 120 < np.median(shrunk[shrunk[..., 0] < 250]) < 136


def test_a_prompt_is_written_above_its_row_and_cut_to_the_width() -> None:
    without = grid(plain(2, 1), ["", ""], cell=48)
    written = grid(plain(2, 1), ["", "a very long prompt that no cell of this size has room for"], cell=48)
    assert written.size == without.size
    box = ImageChops.difference(written, without).getbbox()
    assert box is not None
    left, top, right, bottom = box
    assert written.height // 2 - 4 <= top < bottom <= written.height - 48
    assert 0 < left < right <= written.width - 4


@given(st.text(st.characters(codec="utf-8", exclude_categories=("C",)), max_size=60), st.integers(10, 300))
def test_a_caption_is_the_longest_beginning_that_has_room(text: str, width: int) -> None:
    pen, font = ImageDraw.Draw(Image.new("RGB", (1, 1))), ImageFont.load_default(13)
    text = " ".join(text.split())
    fitted = shorten(text, pen, font, width)
    shorter = [text[:end] + "…" for end in range(len(text))]
    room = [caption for caption in (text, *reversed(shorter)) if pen.textlength(caption, font=font) <= width]
    assert fitted == (room[0] if room else "…")


def test_a_caption_is_measured_as_often_as_its_length_has_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    real = ImageDraw.ImageDraw.textlength
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "textlength",
        lambda pen, text, **more: measured.append(len(text)) or real(pen, text, **more),
    )
    grid(plain(1, 1), ["word " * 800], cell=96)
    assert len(measured) <= 14


@pytest.mark.parametrize(
    "prompt", ["two\nlines", "a\tb\r\n", "\x1b[31mred\x1b[0m", "", "[bold]x[/]", "$x^2$", "\u2028"]
)
def test_whatever_a_prompt_holds_is_written_in_one_line(prompt: str) -> None:
    sheet = grid(plain(1, 3), [prompt], cell=48)
    assert sheet.size == grid(plain(1, 3), ["plain"], cell=48).size


def test_before_and_after_stand_side_by_side_unchanged() -> None:
    before, after = Image.new("RGB", (30, 40), "red"), Image.new("RGB", (50, 20), "blue")
    sheet = np.asarray(before_after(before, after))
    for colour, area, left in (((255, 0, 0), 30 * 40, True), ((0, 0, 255), 50 * 20, False)):
        ys, xs = np.nonzero((sheet == colour).all(-1))
        assert len(ys) == area
        assert (xs.max() < 30) if left else (xs.min() > 30)


@pytest.mark.parametrize(
    ("rows", "columns", "height", "width"), [(1, 1, 8, 8), (3, 5, 8, 8), (2, 3, 8, 12), (2, 2, 12, 8)]
)
def test_a_grid_comes_apart_into_its_images(rows: int, columns: int, height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (rows, columns, height, width, 3), np.uint8)
    found = cells(grid(pixels, ["a prompt"] * rows, max(height, width)), rows, columns)
    assert (np.stack([np.stack([np.asarray(image) for image in row]) for row in found]) == pixels).all()


def test_what_is_no_such_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="no grid of 2 rows and 3 columns"):
        cells(grid(plain(2, 4), ["a"] * 2), 2, 3)
