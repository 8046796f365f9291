"""The OCR reward on drawn words, against Flow-GRPO's formula; runs in the reward's environment."""

from __future__ import annotations

from copy import copy
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from conftest import as_images
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from rewards import make_reward
from rewards.ocr import Ocr


@pytest.fixture(scope="module")
def reward() -> Ocr:
    made = make_reward("ocr")
    assert isinstance(made, Ocr)
    return made


def draw(text: str, size: int = 60) -> Image.Image:
    """Dark words on a pale ground, each word on a line of its own."""
    picture = Image.new("RGB", (512, 512), (240, 230, 200))
    font = ImageFont.load_default(size=size)
    ImageDraw.Draw(picture).text((40, 60), text.replace(" ", "\n"), fill=(10, 20, 90), font=font)
    return picture


def test_drawn_words_are_read_whatever_their_case_and_spaces(reward: Ocr) -> None:
    drawn = ["Hello World", "HELLO world", "OPEN 24 hours", "flowers"]
    prompts = ['a sign "hello world"', 'a sign "Hello World"', 'a shop "Open24Hours"', 'a sign "Flowers"']
    scores = reward.score(as_images([draw(text) for text in drawn]), prompts)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [1.0] * 4


@pytest.mark.parametrize("font", ["DejaVuSans-BoldOblique", "DejaVuSerif", "DejaVuSansMono", "STIXGeneralBolIta"])
def test_words_are_read_in_several_fonts_sizes_and_colours(reward: Ocr, font: str) -> None:
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{font}.ttf"
    pictures = []
    for size, colour, ground in ((12, "black", "white"), (28, "yellow", "maroon"), (72, "darkgreen", "skyblue")):
        picture = Image.new("RGB", (512, 512), ground)
        ImageDraw.Draw(picture).text((30, 150), "OPEN 24 h", fill=colour, font=ImageFont.truetype(str(file), size))
        pictures += [picture, picture.rotate(8, fillcolor=ground, resample=Image.Resampling.BICUBIC)]
    assert reward.score(as_images(pictures), ['a shop, "Open 24 h" above its door'] * 6).tolist() == [1.0] * 6


def test_words_among_others_count_as_found_and_wrong_letters_as_their_share(reward: Ocr) -> None:
    drawn = ["Welcome to Berlin today", "Berlim", "Berl", "Paris", "Copenhagen airport"]
    scores = reward.score(as_images([draw(text) for text in drawn]), ['a sign that says "Berlin"'] * 5)
    assert scores.tolist() == pytest.approx([1, 5 / 6, 4 / 6, 2 / 6, 0])


def test_a_picture_without_words_scores_nothing(reward: Ocr) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    assert reward.score(as_images([Image.fromarray(noise)]), ['a "stop" sign']).tolist() == [0]
    for size in (8, 512):
        assert reward.score(torch.zeros(1, 3, size, size), ['a "stop" sign']).tolist() == [0]


def test_what_is_read_is_seen_in_its_own_colours(reward: Ocr, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    class Nothing:
        txts = None

    monkeypatch.setattr(reward, "_reader", lambda pixels: seen.append(pixels) or Nothing)
    reward.score(torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4), ['a "stop" sign'])
    assert seen[0].tolist() == [[[0, 128, 255]] * 4] * 4  # blue, green, red


def test_a_prompt_that_quotes_nothing_is_not_judged_and_the_others_are(reward: Ocr) -> None:
    images = as_images([draw("stop")] * 2)
    scores = reward.score(images, ["a stop sign", 'a "stop" sign'])
    assert scores.isnan().tolist() == [True, False]
    assert scores[1] == 1


@settings(max_examples=200, deadline=None)
@given(st.text("abcD 1", max_size=12), st.text("abCd 1", min_size=1, max_size=8).filter(str.strip))
def test_the_formula_is_that_of_flow_grpo(reward: Ocr, read: str, words: str) -> None:
    reward = copy(reward)
    reward._read = lambda _: read  # type: ignore[method-assign]
    found, wanted = read.replace(" ", "").lower(), words.replace(" ", "").lower()
    distance = 0 if wanted in found else min(_edits(found, wanted), len(wanted))
    score = reward.score(torch.zeros(1, 3, 8, 8), [f'a sign that says "{words}"'])
    assert score.item() == pytest.approx(1 - distance / len(wanted))


def _edits(one: str, other: str) -> int:
    """Levenshtein's distance, by its recursion over rows."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        last, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(row[-1] + 1, last[j] + 1, last[j - 1] + (a != b)))
    return row[-1]
