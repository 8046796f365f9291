"""The gold judge as a reward: the judge's numbers, NaN where it cannot read the prompt."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from rewards.reward import to_images
from rewards.shapes_gold import ShapesGold
from shapes.captions import sample_caption
from shapes.judge import gold_score
from shapes.render import render
from shapes.worlds import SECOND


def test_scores_are_the_judges_own_for_each_pair() -> None:
    rng = random.Random(0)
    captions = [sample_caption(rng, held_out=None) for _ in range(40)]
    pixels = np.stack([render(caption, rng) for caption in captions])
    shifted = captions[1:] + captions[:1]
    own = ShapesGold().score(to_images(pixels), [caption.text for caption in captions])
    other = ShapesGold().score(to_images(pixels), [caption.text for caption in shifted])
    assert own.dtype == torch.float32
    assert own.tolist() == [1.0] * 40
    expected = [gold_score(image, caption) for image, caption in zip(pixels, shifted, strict=True)]
    assert other.tolist() == pytest.approx(expected)
    assert other.mean() < 0.7


def test_the_second_world_is_read_with_its_own_words() -> None:
    rng = random.Random(0)
    captions = [sample_caption(rng, held_out=None, world=SECOND) for _ in range(20)]
    images = to_images(np.stack([render(caption, rng) for caption in captions]))
    prompts = [caption.text for caption in captions]
    assert ShapesGold("second").score(images, prompts).tolist() == [1.0] * 20
    assert ShapesGold().score(images, prompts).isnan().all()


def test_a_world_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="no embedded world 'third'; the worlds are first, second"):
        ShapesGold("third")


def test_a_prompt_outside_the_grammar_gets_nan_and_the_others_their_score() -> None:
    rng = random.Random(0)
    caption = sample_caption(rng)
    images = to_images(np.stack([render(caption, rng)] * 3))
    scores = ShapesGold().score(images, [caption.text, "a dog in the snow", caption.text])
    assert scores.isnan().tolist() == [False, True, False]
    assert scores[[0, 2]].tolist() == [1.0, 1.0]


def test_it_cannot_be_trained_on_by_gradient() -> None:
    with pytest.raises(TypeError, match="no gradient"):
        ShapesGold().score_and_grad(torch.zeros(1, 3, 32, 32), ["a red circle"])


def test_as_many_prompts_as_images_are_needed() -> None:
    with pytest.raises(ValueError, match="zip"):
        ShapesGold().score(torch.zeros(2, 3, 32, 32), ["a red circle"])
