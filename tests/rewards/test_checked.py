"""A reward held to the protocol: answers, gradients, features, and everything that may be raised."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from rewards.checked import Checked
from rewards.errors import RewardFailed, RewardUnavailable, WrongAnswer
from rewards.function import as_reward
from rewards.reward import Reward, UnknownReward

IMAGES = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Own(Reward):
    """Answers whatever it is given."""

    differentiable = True

    def __init__(self, answer: Callable[[Tensor], Any]) -> None:
        self.answer = answer

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.answer(images)


class Both(Own):
    """Has a gradient and features of its own."""

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return self.answer(images)

    def embed(self, images: Tensor) -> Tensor:
        return self.answer(images)


class Unpicklable(Exception):
    """As users write them."""

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"{code} in {where}")
        self.lock = open
        self.hook = lambda: None


def test_a_column_is_scores_and_has_their_gradient() -> None:
    reward = Checked(Own(lambda images: images.square().flatten(1).sum(dim=1, keepdim=True)), "own")
    scores, gradients = reward.score_and_grad(IMAGES, ["a", "b"])
    torch.testing.assert_close(scores, IMAGES.square().flatten(1).sum(dim=1))
    torch.testing.assert_close(gradients, 2 * IMAGES)
    torch.testing.assert_close(reward.score(IMAGES, ["a", "b"]), scores)


def test_a_wrong_shape_names_the_key_the_class_and_both_shapes() -> None:
    with pytest.raises(WrongAnswer) as error:
        Checked(Own(lambda images: images.mean()), "mine").score(IMAGES, ["a", "b"])
    assert str(error.value).startswith(f"The reward 'mine' ({__name__}:Own) answered 2 images with a tensor")
    assert "shape ()" in str(error.value)
    assert "shape (2,)" in str(error.value)


@pytest.mark.parametrize(
    "answer",
    [
        lambda images: torch.zeros(len(images)),
        lambda images: torch.zeros(len(images), requires_grad=True),
        lambda images: images.mean((1, 2, 3)).tolist(),
    ],
)
def test_a_promised_gradient_that_does_not_flow_is_a_wrong_answer(answer: Callable) -> None:
    with pytest.raises(WrongAnswer, match=r"'own' .* no gradient flows"):
        Checked(Own(answer), "own").score_and_grad(IMAGES, ["a", "b"])


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda images: images.mean((1, 2, 3)), "scores and their gradient"),
        (lambda images: (images.mean((1, 2, 3)), images[:, :1]), r"shape \(2, 1, 4, 4\)"),
        (lambda images: (images.mean(), images), r"shape \(\)"),
        (lambda images: (images.mean((1, 2, 3)), None), "gradient None"),
    ],
)
def test_gradients_of_its_own_are_checked_as_well(answer: Callable, words: str) -> None:
    with pytest.raises(WrongAnswer, match=words):
        Checked(Both(answer), "own").score_and_grad(IMAGES, ["a", "b"])


def test_features_are_checked() -> None:
    assert Checked(Both(lambda images: images.flatten(1))).embed(IMAGES).shape == (2, 48)
    with pytest.raises(WrongAnswer, match="features"):
        Checked(Both(lambda images: images)).embed(IMAGES)
    with pytest.raises(TypeError, match="Own has no image features"):
        Checked(Own(lambda images: images)).embed(IMAGES)


def raises(error: BaseException) -> Callable[[Tensor], Any]:
    def answer(images: Tensor) -> Any:
        raise error

    return answer


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (KeyError("my_key"), "raised KeyError: 'my_key' at "),
        (SystemExit(0), "raised SystemExit: 0 at "),
        (Unpicklable(3, where="there"), "raised Unpicklable: 3 in there at "),
        (ValueError("two\nlines."), "raised ValueError: two lines at "),
    ],
)
def test_what_it_raises_becomes_a_sentence_that_travels(raised: BaseException, words: str) -> None:
    reward = Checked(Own(raises(raised)), "own")
    for ask in (reward.score, reward.score_and_grad):
        with pytest.raises(RewardFailed) as error:
            ask(IMAGES, ["a", "b"])
        message = str(pickle.loads(pickle.dumps(error.value)))
        assert message.startswith(f"The reward 'own' ({__name__}:Own) {words}")
        assert "test_checked.py:" in message
        assert "\n" not in message


def test_an_error_that_cannot_even_be_shown_is_still_named() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    with pytest.raises(RewardFailed, match="raised Mute at "):
        Checked(Own(raises(Mute()))).score(IMAGES, ["a", "b"])


def test_the_place_is_in_the_users_code_where_a_library_raised() -> None:
    with pytest.raises(RewardFailed, match=r"raised RuntimeError: .* at .*test_checked\.py:\d+\.$"):
        Checked(Own(lambda images: torch.nn.functional.linear(images, torch.zeros(7, 9)))).score(IMAGES, ["a", "b"])


def test_a_reward_that_is_gone_says_so_itself() -> None:
    with pytest.raises(RewardUnavailable, match=r"^the server is gone$"):
        Checked(Own(raises(RewardUnavailable("the server is gone")))).score(IMAGES, ["a", "b"])


class Terminated(SystemExit):
    """As Ray raises it."""

    ray_terminate_msg = "The process receives a SIGTERM."


@pytest.mark.parametrize("ending", [Terminated(1), KeyboardInterrupt()])
def test_what_ends_the_process_passes(ending: BaseException) -> None:
    reward = Checked(Own(raises(ending)))
    for ask in (reward.score, reward.score_and_grad):
        with pytest.raises(type(ending)):
            ask(IMAGES, ["a", "b"])

    def make() -> Reward:
        raise ending

    with pytest.raises(type(ending)):
        Checked.make("own", make)


@pytest.mark.parametrize("raised", [FileNotFoundError("no weights"), SystemExit(0), Unpicklable(1, where="it")])
def test_a_constructor_that_raises_is_a_sentence_with_the_key(raised: BaseException) -> None:
    def make() -> Reward:
        raise raised

    with pytest.raises(RewardUnavailable) as error:
        Checked.make("own", make)
    assert str(error.value).startswith(f"The reward 'own' cannot be built: {type(raised).__name__}: ")
    pickle.dumps(error.value)


def test_there_being_no_such_reward_is_not_its_constructors_fault() -> None:
    def make() -> Reward:
        raise UnknownReward("There is none.")

    with pytest.raises(UnknownReward):
        Checked.make("own", make)


def test_a_function_may_return_whatever_holds_one_number_an_image() -> None:
    def brightness(images: Tensor, prompts: Sequence[str]) -> list[float]:
        return [float(image.mean()) for image in images]

    reward = Checked(as_reward(brightness)(), "own")
    torch.testing.assert_close(reward.score(IMAGES, ["a", "b"]), IMAGES.mean((1, 2, 3)))
    assert not reward.differentiable


def test_a_function_that_says_so_is_differentiable() -> None:
    def energy(images: Tensor, prompts: Sequence[str], scale: float = 1.0) -> list[Tensor]:
        return [scale * image.square().sum() for image in images]

    energy.differentiable = True  # type: ignore[attr-defined]
    _, gradients = Checked(as_reward(energy)(scale=3.0), "own").score_and_grad(IMAGES, ["a", "b"])
    torch.testing.assert_close(gradients, 6 * IMAGES)


def test_an_iterator_that_ends_inside_a_reward_is_a_failure_like_any_other() -> None:
    reward = Checked(Both(lambda images: next(iter(()))), "own")
    for ask in (
        lambda: reward.score(IMAGES, ["a", "b"]),
        lambda: reward.score_and_grad(IMAGES, ["a", "b"]),
        lambda: reward.embed(IMAGES),
    ):
        with pytest.raises(RewardFailed, match=r"'own'.* raised StopIteration"):
            ask()
