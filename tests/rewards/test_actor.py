"""The reward actor as the plain class that it is."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rewards import make_reward
from rewards.actor import RewardActor
from rewards.errors import RewardUnavailable, WrongAnswer
from rewards.function import as_reward
from rewards.prompt import Prompt
from rewards.reward import Reward, to_images
from shapes.captions import parse
from shapes.render import render
from shapes.scorer import Scorer

PROMPTS = ["a red circle", "four blue stars", "a yellow star on the left"]


def makers(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Callable[[], Reward]]:
    return {name: partial(make_reward, name, **keywords) for name, keywords in options.items()}


@pytest.fixture
def pixels() -> np.ndarray:
    """Read-only, as arrays from the object store are."""
    images = np.stack([render(parse(prompt), random.Random(0)) for prompt in PROMPTS])
    images.flags.writeable = False
    return images


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    folder: Path = tmp_path_factory.mktemp("scorer")
    Scorer(width=16, layers=1).save_pretrained(folder)
    return str(folder)


def test_every_reward_answers_in_its_own_row(pixels: np.ndarray, checkpoint: str) -> None:
    options = {
        "shapes_gold": {},
        "jpeg_compressibility": {"quality": 50},
        "shapes_agreement": {"checkpoint": checkpoint},
    }
    scores = RewardActor(makers(options)).score(pixels, PROMPTS)
    assert scores.names == tuple(options)
    assert scores.values.shape == (3, 3)
    assert scores.values.dtype == np.float32
    assert scores.features is None
    for row, (name, keywords) in zip(scores.values, options.items(), strict=True):
        np.testing.assert_allclose(row, make_reward(name, **keywords).score(to_images(pixels), PROMPTS))
    assert scores.values[0].tolist() == [1.0, 1.0, 1.0]


def test_features_are_those_of_the_reward_that_is_named(pixels: np.ndarray, checkpoint: str) -> None:
    options = {"shapes_gold": {}, "shapes_agreement": {"checkpoint": checkpoint}}
    features = RewardActor(makers(options)).score(pixels, PROMPTS, features="shapes_agreement").features
    assert features is not None
    assert features.dtype == np.float32
    expected = make_reward("shapes_agreement", checkpoint=checkpoint).embed(to_images(pixels))
    np.testing.assert_allclose(features, expected, rtol=1e-5)


def test_features_of_a_reward_that_has_none_are_refused(pixels: np.ndarray) -> None:
    with pytest.raises(TypeError, match="no image features"):
        RewardActor(makers({"jpeg_compressibility": {}})).score(pixels, PROMPTS, features="jpeg_compressibility")


def test_a_prompt_that_cannot_be_judged_is_nan_under_that_reward_alone(pixels: np.ndarray) -> None:
    actor = RewardActor(makers({"shapes_gold": {}, "jpeg_compressibility": {}}))
    scores = actor.score(pixels, ["a dog", *PROMPTS[1:]])
    assert np.isnan(scores.values).tolist() == [[True, False, False], [False, False, False]]


def test_a_reward_that_raises_costs_its_own_scores_only(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        raise KeyError("my_key")

    monkeypatch.setattr("rewards.jpeg.JpegCompressibility.score", broken)
    scores = RewardActor(makers({"shapes_gold": {}, "jpeg_compressibility": {}})).score(pixels, PROMPTS)
    assert scores.values[0].tolist() == [1.0, 1.0, 1.0]
    assert np.isnan(scores.values[1]).all()
    assert scores.failed.keys() == {"jpeg_compressibility"}
    assert "'jpeg_compressibility'" in scores.failed["jpeg_compressibility"]
    assert "raised KeyError: 'my_key' at " in scores.failed["jpeg_compressibility"]


class Own(Reward):
    """Returns a column of the images' means, and leaves the images black."""

    differentiable = True

    def score(self, images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        scores = images.mean((1, 2, 3))[:, None]
        if not images.requires_grad:
            images.zero_()
        return scores

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((1, 2, 3))


def test_a_column_is_read_but_not_before_a_run(pixels: np.ndarray) -> None:
    actor = RewardActor({"own": Own})
    np.testing.assert_allclose(actor.score(pixels, PROMPTS).values[0], to_images(pixels).mean((1, 2, 3)), rtol=1e-6)
    with pytest.raises(WrongAnswer, match=r"'own' .* of shape \(3, 1\)"):
        actor.score(pixels, PROMPTS, strict=True)


def test_what_a_reward_does_to_the_images_is_not_seen_by_the_others(pixels: np.ndarray) -> None:
    values = RewardActor({"own": Own, **makers({"shapes_gold": {}})}).score(pixels, PROMPTS).values
    assert values[1].tolist() == [1.0, 1.0, 1.0]


def test_features_of_the_wrong_shape_end_the_call(pixels: np.ndarray) -> None:
    with pytest.raises(WrongAnswer, match="features"):
        RewardActor({"own": Own}).score(pixels, PROMPTS, features="own")


def test_judging_reads_a_column_as_well(pixels: np.ndarray) -> None:
    images = to_images(pixels)
    scores, gradients = RewardActor({"own": Own}).weighted_sum(images.numpy(), PROMPTS, {"own": 2.0}, True)
    np.testing.assert_allclose(scores, 2 * images.mean((1, 2, 3)), rtol=1e-6)
    assert gradients is not None
    np.testing.assert_allclose(gradients, 2 / images[0].numel(), rtol=1e-5)


def test_a_constructor_that_leaves_the_process_is_an_error() -> None:
    def leave() -> Reward:
        raise SystemExit(0)

    with pytest.raises(RewardUnavailable, match="'own' cannot be built: SystemExit: 0"):
        RewardActor({"own": leave})


def test_rewards_see_the_metadata_of_prompts(pixels: np.ndarray) -> None:
    def counted(images: torch.Tensor, prompts: Sequence[Prompt]) -> list[float]:
        return [prompt.metadata["count"] for prompt in prompts]

    prompts = pickle.loads(pickle.dumps(tuple(Prompt(text, {"count": i}) for i, text in enumerate(PROMPTS))))
    assert RewardActor({"own": as_reward(counted)}).score(pixels, prompts).values.tolist() == [[0.0, 1.0, 2.0]]


def test_an_unknown_reward_is_refused_before_anything_is_scored() -> None:
    with pytest.raises(KeyError, match="shapes_gold"):
        RewardActor(makers({"shapes_golden": {}}))


def test_scores_travel(pixels: np.ndarray) -> None:
    scores = RewardActor(makers({"shapes_gold": {}})).score(pixels, PROMPTS)
    again = pickle.loads(pickle.dumps(scores))
    assert again.names == scores.names
    np.testing.assert_array_equal(again.values, scores.values)


def test_one_reward_answers_with_scores_or_features(pixels: np.ndarray) -> None:
    actor = RewardActor(makers({"shapes_gold": {}, "jpeg_compressibility": {}}))
    scores = actor.score(pixels, PROMPTS, "shapes_gold")
    for row, name in zip(scores.values, scores.names, strict=True):
        np.testing.assert_array_equal(actor.answer(pixels, PROMPTS, name), row)
    np.testing.assert_array_equal(actor.answer(pixels, PROMPTS, "shapes_gold", features=True), scores.features)
    with pytest.raises(TypeError, match="no image features"):
        actor.answer(pixels, PROMPTS, "jpeg_compressibility", features=True)
