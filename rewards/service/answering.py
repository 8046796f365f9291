"""The three questions that the service answers about a batch of images, put to a reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rewards.checked import Checked
from rewards.errors import RewardFailed, RewardUnavailable, said
from rewards.reward import Reward, to_images


class Failed(Exception):
    """The reward could not answer; the message is one sentence."""


def has_features(reward: Reward) -> bool:
    """Whether a reward has image features."""
    return type(reward).embed is not Reward.embed


def answer(reward: Reward, question: str, pixels: np.ndarray, prompts: Sequence[str]) -> list[np.ndarray]:
    """Put a question to a reward.

    Args:
        reward: Is asked.
        question: One of `codec.QUESTIONS`.
        pixels: `(B, 3, H, W)` float32 in [0, 1], or `(B, H, W, 3)` uint8.
        prompts: One an image; none for `Embed`.

    Returns:
        The fields of the reply, float32: scores `(B,)`, gradients `(B, 3, H, W)`, features `(B, D)`.

    Raises:
        Failed: If the reward raises, or answers with another shape.
    """
    images = to_images(pixels) if pixels.dtype == np.uint8 else torch.from_numpy(np.array(pixels))
    try:
        answers = _ask(Checked.of(reward), question, images, prompts)
    except RewardFailed as error:
        raise Failed(f"The reward raised {said(error.__cause__ or error, place=False)}") from error.__cause__
    except RewardUnavailable as error:
        raise Failed(str(error)) from error
    return [part.detach().cpu().numpy() for part in answers]


def _ask(reward: Reward, question: str, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, ...]:
    if question == "ScoreAndGrad":
        return reward.score_and_grad(images, prompts)
    with torch.no_grad():
        return (reward.score(images, prompts),) if question == "Score" else (reward.embed(images),)
