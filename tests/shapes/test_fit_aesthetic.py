"""The made-up person: a taste by hand, choices by its probabilities, and a network that learns it from them."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from shapes.fit_aesthetic import BRIGHTNESS, SIZE, WARMTH, choices, fit, measure, pictures, taste
from shapes.worlds import FIRST, SECOND


def test_the_taste_by_hand() -> None:
    picture = np.zeros((2, 2, 3))
    assert taste(picture, 0.0) == 0
    picture[0] = (1.0, 0.0, 0.0)  # red in the upper half
    assert taste(picture, 0.5) == pytest.approx(BRIGHTNESS * 0.5 * 0.2126 + WARMTH * 0.5 + SIZE * 0.5)
    assert taste(np.ones((2, 2, 3)), 0.0) == pytest.approx(BRIGHTNESS)
    picture[0] = (0.0, 0.0, 1.0)
    assert taste(picture, 0.0) == pytest.approx(BRIGHTNESS * 0.5 * 0.0722 - WARMTH * 0.5)


def test_choices_have_the_probabilities_of_bradley_and_terry() -> None:
    said = np.array([0.0, 1.2])
    first, second = choices(said, 40_000, np.random.default_rng(0)).T
    mixed = first != second
    share = (first[mixed] == 1).mean()
    assert share == pytest.approx(1 / (1 + np.exp(-1.2)), abs=4 * (0.25 / mixed.sum()) ** 0.5)


def test_pictures_are_the_same_again_and_half_of_them_are_washed_over() -> None:
    one, other = (pictures(60, FIRST, random.Random(0)) for _ in range(2))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    palette = np.array(list(FIRST.backgrounds.values()))
    clean = (one[0][:, 0, 0][:, None] == palette[None]).all(axis=2).any(axis=1)
    assert 0.3 < clean.mean() < 0.7


@pytest.mark.slow
def test_a_network_learns_the_taste_from_choices_alone() -> None:
    torch.manual_seed(0)
    made = [pictures(150, world, random.Random(0)) for world in (FIRST, SECOND)]
    network = fit(made, 40, 600, np.random.default_rng(0))
    found = measure(network, *pictures(200, FIRST, random.Random(1)), np.random.default_rng(1))
    assert found["correlation"] > 0.6
    assert found["network"] <= found["taste"] + 0.01
