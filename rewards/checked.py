"""A reward of somebody's, held to the protocol: what it answers is checked, and what it raises becomes a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rewards.answers import to_features, to_gradients, to_scores
from rewards.errors import RewardFailed, RewardUnavailable, WrongAnswer, said
from rewards.reward import Reward, UnknownReward


class Checked(Reward):
    """Asks a reward, and answers on the images' device as the protocol says.

    Every question raises `WrongAnswer` if the answer is none, `RewardUnavailable` if the reward says so, and
    `RewardFailed` if it raises anything else, be it `SystemExit`. Ctrl-C, and whatever else ends the process, passes.

    Args:
        reward: Is asked.
        name: Its key in the configuration, if it has one.
    """

    def __init__(self, reward: Reward, name: str | None = None) -> None:
        self._reward, made = reward, type(reward)
        self._class = made.__name__
        described = f"{made.__module__}:{made.__qualname__}"
        self._who = f"The reward {described}" if name is None else f"The reward {name!r} ({described})"
        self.differentiable = bool(reward.differentiable)

    @classmethod
    def make(cls, name: str, make: Callable[[], Reward]) -> Checked:
        """Build a reward.

        Raises:
            UnknownReward: If there is no such reward.
            RewardUnavailable: In one sentence, if it cannot be built.
        """
        try:
            return cls(make(), name)
        except (UnknownReward, RewardUnavailable):
            raise
        except BaseException as error:
            if _is_ending(error):
                raise
            raise RewardUnavailable(f"The reward {name!r} cannot be built: {said(error)}.") from error

    @classmethod
    def of(cls, reward: Reward) -> Checked:
        """The same reward, checked once."""
        return reward if isinstance(reward, cls) else cls(reward)

    def score(self, images: Tensor, prompts: Sequence[str], strict: bool = False) -> Tensor:
        with _Asked(self._who):
            return to_scores(self._reward.score(images, prompts), len(images), self._who, strict).to(images.device)

    def score_at(self, images: Tensor, prompts: Sequence[str], times: Tensor) -> Tensor:
        with _Asked(self._who):
            return to_scores(self._reward.score_at(images, prompts, times), len(images), self._who).to(images.device)

    def score_and_grad(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        if not self.differentiable:
            raise TypeError(f"{self._class} has no gradient with respect to the image.")
        with _Asked(self._who):
            if type(self._reward).score_and_grad is Reward.score_and_grad:
                answer: Any = self._differentiate(images, prompts)
            else:
                answer = self._reward.score_and_grad(images, prompts)
            if not isinstance(answer, tuple) or len(answer) != 2:
                raise WrongAnswer(f"{self._who} answered with something else than scores and their gradient.")
            scores = to_scores(answer[0], len(images), self._who)
            gradients = to_gradients(answer[1], images.shape, self._who)
            return scores.detach().to(images.device), gradients.detach().to(images.device)

    def embed(self, images: Tensor) -> Tensor:
        if type(self._reward).embed is Reward.embed:
            raise TypeError(f"{self._class} has no image features.")
        with _Asked(self._who):
            return to_features(self._reward.embed(images), len(images), self._who).to(images.device)

    def _differentiate(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = images.detach().float().requires_grad_()
            scores = to_scores(self._reward.score(leaf, prompts), len(images), self._who)
            found = torch.autograd.grad(scores.sum(), leaf, allow_unused=True) if scores.requires_grad else (None,)
        if found[0] is None:
            raise WrongAnswer(
                f"{self._who} says that it is differentiable, but no gradient flows from its scores into the images."
            )
        return scores, found[0]


class _Asked:
    """A block in which whatever a reward raises becomes a `RewardFailed`.

    No `contextmanager`: that lets a StopIteration through, whatever the block makes of it.
    """

    def __init__(self, who: str) -> None:
        self._who = who

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None and not isinstance(error, RewardUnavailable) and not _is_ending(error):
            raise RewardFailed(f"{self._who} raised {said(error)}.") from error


def _is_ending(error: BaseException) -> bool:
    # Of the process, in whatever code is running: Ctrl-C, or Ray with a SystemExit of its own; neither is the reward's.
    return isinstance(error, KeyboardInterrupt) or hasattr(error, "ray_terminate_msg")
