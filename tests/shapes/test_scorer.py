"""The scorer's mechanics, on random weights: words, padding, sizes, storage."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shapes.captions import KINDS, all_captions, parse
from shapes.render import render
from shapes.scorer import MAX_WORDS, Scorer, tokenize
from shapes.worlds import WORLDS, World

everywhere = pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
PROMPTS = ["a red circle", "a red square and a blue star on a white background", "four blue stars"]


@pytest.fixture
def scorer() -> Scorer:
    torch.manual_seed(0)
    return Scorer(width=16, layers=2).eval().requires_grad_(False)


@pytest.fixture
def images() -> Tensor:
    pixels = np.stack([render(parse(prompt), random.Random(0)) for prompt in PROMPTS])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@everywhere
def test_every_word_of_the_grammar_has_its_own_id(world: World) -> None:
    texts = [caption.text for kind in KINDS for caption in all_captions(kind, world=world)]
    words = sorted({word for text in texts for word in text.split()})
    ids = tokenize(words, world)[:, 0].tolist()
    assert len(set(ids)) == len(words)
    assert min(ids) >= 2


@everywhere
def test_captions_fit_and_are_told_apart(world: World) -> None:
    captions = [caption for kind in KINDS for caption in all_captions(kind, world=world)]
    rows = tokenize([caption.text for caption in captions], world)
    assert rows.shape == (len(captions), MAX_WORDS)
    assert len({tuple(row) for row in rows.tolist()}) == len(captions)
    assert (rows > 0).sum(dim=1).tolist() == [len(caption.text.split()) for caption in captions]


def test_case_and_punctuation_do_not_matter() -> None:
    rows = tokenize(["a red circle", "A Red, circle."])
    assert torch.equal(rows[0], rows[1])


def test_unknown_words_share_one_id_that_no_known_word_has() -> None:
    rows = tokenize(["a pink dog"])
    assert rows[0, 1] == rows[0, 2] == 1
    assert rows[0, 0] > 1


def test_long_prompts_are_cut() -> None:
    assert torch.equal(tokenize(["red " * 40]), tokenize(["red " * MAX_WORDS]))


def test_a_score_does_not_depend_on_the_rest_of_the_batch(scorer: Scorer, images: Tensor) -> None:
    together = scorer(images, tokenize(PROMPTS))
    alone = [scorer(image[None], tokenize([prompt])) for image, prompt in zip(images, PROMPTS, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_an_empty_prompt_spoils_no_other_score(scorer: Scorer, images: Tensor) -> None:
    scores = scorer(images, tokenize(["", *PROMPTS[1:]]))
    torch.testing.assert_close(scores[1:], scorer(images, tokenize(PROMPTS))[1:], rtol=1e-4, atol=1e-5)


def test_padding_is_never_read(scorer: Scorer, images: Tensor) -> None:
    scores = scorer(images, tokenize(PROMPTS))
    # Not a constant, which the layer norm would take away again.
    scorer.words.weight[0] = torch.linspace(-10, 10, 16).roll(5)
    torch.testing.assert_close(scorer(images, tokenize(PROMPTS)), scores)


def test_the_order_of_words_matters(scorer: Scorer, images: Tensor) -> None:
    swapped = tokenize(["a red square and a blue circle", "a blue square and a red circle"])
    a, b = scorer(images[:1].expand(2, -1, -1, -1), swapped)
    assert (a - b).abs() > 1e-4


def test_reading_tokens_once_is_the_same_as_scoring(scorer: Scorer, images: Tensor) -> None:
    tokens, words = scorer.tokens(images), tokenize(PROMPTS)
    torch.testing.assert_close(scorer.read(tokens, words), scorer(images, words))


@pytest.mark.parametrize("size", [16, 64, 96])
def test_pictures_of_other_sizes_are_resized(scorer: Scorer, size: int) -> None:
    colours = torch.rand(3, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    words = tokenize(PROMPTS)
    expected = scorer(colours.expand(-1, -1, 32, 32), words)
    torch.testing.assert_close(scorer(colours.expand(-1, -1, size, size), words), expected, rtol=1e-3, atol=1e-4)


def test_features_are_unit_vectors_that_see_where_things_are(scorer: Scorer) -> None:
    left, right = torch.full((2, 3, 32, 32), 0.9)
    left[:, :, :16] = 0.1
    right[:, :, 16:] = 0.1
    features = scorer.features(torch.stack([left, right]))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
    assert (features[0] - features[1]).norm() > 1e-3


def test_a_saved_scorer_scores_the_same(scorer: Scorer, images: Tensor, tmp_path: Path) -> None:
    scorer.save_pretrained(tmp_path)
    loaded = Scorer.from_pretrained(tmp_path).eval().requires_grad_(False)
    assert torch.equal(loaded(images, tokenize(PROMPTS)), scorer(images, tokenize(PROMPTS)))


def test_a_scorer_remembers_its_world(tmp_path: Path) -> None:
    scorer = Scorer(width=16, layers=1, world="second").eval().requires_grad_(False)
    scorer.save_pretrained(tmp_path)
    loaded = Scorer.from_pretrained(tmp_path).eval().requires_grad_(False)
    assert loaded.world is WORLDS["second"]
    words = loaded.tokenize(["a pink heart over sky", "a red circle"])
    assert (words[0] > 1).sum() == 5
    assert words[1].tolist()[1:3] == [1, 1]
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images, words), scorer(images, words))
