"""The weighted sum of rewards as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor

from rewards import make_reward
from rewards.actor import RewardActor
from rewards.errors import WrongAnswer
from rewards.reward import Reward
from rewards.weighted import WeightedSum
from shapes.captions import all_captions


class Power(Reward):
    """The sum of a power of an image's pixels."""

    differentiable = True

    def __init__(self, exponent: int) -> None:
        self.exponent = exponent

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return (images**self.exponent).flatten(1).sum(dim=1)


class BlackBox(Reward):
    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(images))


def test_scores_and_gradients_are_weighted_sums_on_the_rewards_own_scales() -> None:
    images = torch.rand(3, 3, 4, 4)
    both = WeightedSum([(2.0, Power(2)), (-0.5, Power(3))])
    scores, gradients = both.score_and_grad(images, ["a"] * 3)
    torch.testing.assert_close(scores, (2 * images**2 - 0.5 * images**3).flatten(1).sum(dim=1))
    torch.testing.assert_close(gradients, 4 * images - 1.5 * images**2)
    torch.testing.assert_close(both.score(images, ["a"] * 3), scores)


def test_it_is_differentiable_only_if_all_of_it_is() -> None:
    assert WeightedSum([(1.0, Power(1))]).differentiable
    mixed = WeightedSum([(1.0, Power(1)), (1.0, BlackBox())])
    assert not mixed.differentiable
    with pytest.raises(TypeError, match="BlackBox has no gradient"):
        mixed.score_and_grad(torch.rand(1, 3, 4, 4), ["a"])


def test_a_column_beside_scores_does_not_broadcast() -> None:
    class Column(Power):
        def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return super().score(images, prompts)[:, None]

    images = torch.linspace(0, 1, 144).view(3, 3, 4, 4)
    both = WeightedSum([(1.0, Column(1)), (2.0, Power(1))])
    torch.testing.assert_close(both.score(images, ["a"] * 3), 3 * images.flatten(1).sum(dim=1))
    torch.testing.assert_close(both.score_and_grad(images, ["a"] * 3)[1], torch.full_like(images, 3))


def test_too_few_scores_are_refused_by_name() -> None:
    class Few(Power):
        def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return super().score(images, prompts)[:1]

    with pytest.raises(WrongAnswer, match=r"'few' .*shape \(1,\)"):
        WeightedSum.make({"few": lambda: Few(1)}, {"few": 1.0}).score(torch.zeros(3, 3, 4, 4), ["a"] * 3)


def test_rewards_without_a_weight_are_not_even_loaded() -> None:
    made = WeightedSum.make(
        {name: partial(make_reward, name) for name in ("shapes_agreement", "no_such_reward")},
        {"shapes_agreement": 1.0, "no_such_reward": 0},
    )
    assert made.differentiable


def test_the_actor_judges_as_the_learner_would() -> None:
    images, prompts = torch.rand(2, 3, 32, 32), [caption.text for caption in all_captions("colour")[:2]]
    weights = {"shapes_agreement": 0.7, "shapes_gold": 0.0}
    makers = {name: partial(make_reward, name) for name in weights}
    scores, gradients = WeightedSum.make(makers, weights).score_and_grad(images, prompts)
    found, of_actor = RewardActor(makers).weighted_sum(images.numpy(), prompts, weights, True)
    torch.testing.assert_close(torch.from_numpy(found), scores)
    torch.testing.assert_close(torch.from_numpy(of_actor), gradients)
    alone, nothing = RewardActor(makers).weighted_sum(images.numpy(), prompts, weights, False)
    assert nothing is None
    torch.testing.assert_close(torch.from_numpy(alone), scores)


def test_the_gradient_is_that_of_finite_differences() -> None:
    images, prompt = torch.rand(1, 3, 32, 32), all_captions("colour")[0].text
    reward = WeightedSum([(2.0, make_reward("shapes_agreement"))])
    _, gradient = reward.score_and_grad(images, [prompt])
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    step = 1e-2
    ahead, behind = (reward.score(images + sign * step * direction, [prompt]) for sign in (1, -1))
    assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=2e-2, abs=1e-2)
