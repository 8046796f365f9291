"""The learned reward: its gradient is that of its score, its checkpoint is the one it is given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rewards.shapes_agreement import ShapesAgreement
from shapes import SCORERS
from shapes.scorer import Scorer, tokenize

PROMPTS = ["a red circle", "a red square and a blue star on a white background"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random scorer, stored in half precision as the shipped one is."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("scorer")
    Scorer(width=16, layers=1).half().save_pretrained(folder)
    return folder


@pytest.fixture
def reward(checkpoint: Path) -> ShapesAgreement:
    return ShapesAgreement(checkpoint)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_scores_are_those_of_the_checkpoint(reward: ShapesAgreement, checkpoint: Path, images: Tensor) -> None:
    scores = reward.score(images, PROMPTS)
    assert scores.dtype == torch.float32
    expected = Scorer.from_pretrained(checkpoint).double().eval()(images.double(), tokenize(PROMPTS))
    torch.testing.assert_close(scores.double(), expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("world", "prompt"), [("first", "a red circle"), ("second", "a pink heart over sky")])
def test_a_worlds_name_is_its_own_scorer(world: str, prompt: str) -> None:
    scorer = Scorer.from_pretrained(SCORERS[world]).float().eval()
    images = torch.rand(2, 3, scorer.world.size, scorer.world.size, generator=torch.Generator().manual_seed(1))
    expected = scorer(images, tokenize([prompt, "a"], scorer.world)).detach()
    torch.testing.assert_close(ShapesAgreement(world).score(images, [prompt, "a"]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [32, 48])
def test_the_gradient_equals_central_differences(reward: ShapesAgreement, checkpoint: Path, size: int) -> None:
    """Along random directions and along itself, against the same network in float64."""
    random = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, size, size, generator=random)
    _, gradient = reward.score_and_grad(images, PROMPTS)
    network = Scorer.from_pretrained(checkpoint).double().eval().requires_grad_(False)
    directions = [torch.randn(images.shape, generator=random, dtype=torch.float64) for _ in range(4)]
    for direction in [*directions, gradient.double() / gradient.norm()]:
        ahead, behind = (network(images.double() + h * direction, tokenize(PROMPTS)) for h in (1e-4, -1e-4))
        expected = (ahead - behind) / 2e-4
        torch.testing.assert_close((gradient * direction).sum(dim=(1, 2, 3)), expected, rtol=1e-3, atol=1e-5)


def test_each_image_has_the_gradient_of_its_own_score(reward: ShapesAgreement, images: Tensor) -> None:
    scores, together = reward.score_and_grad(images, PROMPTS)
    torch.testing.assert_close(scores, reward.score(images, PROMPTS))
    for i, prompt in enumerate(PROMPTS):
        _, alone = reward.score_and_grad(images[i : i + 1], [prompt])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-3, atol=1e-6)


def test_a_step_along_the_gradient_raises_the_score(reward: ShapesAgreement, images: Tensor) -> None:
    scores, gradient = reward.score_and_grad(images, PROMPTS)
    step = 1e-2 * gradient / gradient.flatten(1).norm(dim=1)[:, None, None, None]
    assert (reward.score(images + step, PROMPTS) > scores).all()


def test_the_network_is_frozen(reward: ShapesAgreement, images: Tensor) -> None:
    assert not reward.score(images, PROMPTS).requires_grad


def test_features_tell_images_apart_and_ignore_the_batch(reward: ShapesAgreement, images: Tensor) -> None:
    features = reward.embed(images)
    assert features.dtype == torch.float32
    torch.testing.assert_close(features[1:], reward.embed(images[1:]), rtol=1e-4, atol=1e-5)
    assert (features[0] - features[1]).norm() > 1e-4
