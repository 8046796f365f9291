"""What rewards answer, held to what was asked: scores, gradients and features as float32 tensors of the right shape.

A wrong shape would broadcast, and train on comparisons that nobody asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewards.errors import WrongAnswer


def to_scores(answer: Any, count: int, who: str, strict: bool = False) -> Tensor:
    """Scores `(B,)` float32 with their graph, out of whatever holds one number an image.

    That is a tensor or an array of floats, integers or booleans, or a list of numbers; dimensions of length 1 beside
    that of the images are dropped, so that `(B, 1)`, `(1, B)`, and for a single image also a scalar, are read.

    Args:
        answer: Of the reward.
        count: Of the images, B.
        who: The reward, to begin a sentence with.
        strict: Take no shape but `(B,)`.

    Raises:
        WrongAnswer: In one sentence, for anything else.
    """
    scores = _numbers(answer)
    shape = [] if scores is None else [n for n in scores.shape if strict or n != 1]
    if scores is None or shape != ([count] if strict or count != 1 else []):
        raise WrongAnswer(
            f"{who} answered {_images(count)} with {_shown(answer)}; scores are a tensor, an array or a list of "
            f"numbers of shape ({count},), NaN where an image cannot be judged."
        )
    return scores.reshape(count)


def to_gradients(answer: Any, shape: Sequence[int], who: str) -> Tensor:
    """Gradients of the images' own shape `(B, 3, H, W)`, float32.

    Args:
        answer: Of the reward.
        shape: Of the images.
        who: The reward, to begin a sentence with.

    Raises:
        WrongAnswer: In one sentence, for anything else.
    """
    gradients = _numbers(answer)
    if gradients is None or tuple(gradients.shape) != tuple(shape):
        raise WrongAnswer(
            f"{who} answered {_images(shape[0])} with the gradient {_shown(answer)}; it must be of the images' shape "
            f"{tuple(shape)}."
        )
    return gradients


def to_features(answer: Any, count: int, who: str) -> Tensor:
    """Image features `(B, D)` float32.

    Args:
        answer: Of the reward.
        count: Of the images, B.
        who: The reward, to begin a sentence with.

    Raises:
        WrongAnswer: In one sentence, for anything else.
    """
    features = _numbers(answer)
    if features is None or features.ndim != 2 or len(features) != count or not features.shape[1]:
        raise WrongAnswer(
            f"{who} answered {_images(count)} with the features {_shown(answer)}; they must be of shape ({count}, D)."
        )
    return features


def _numbers(answer: Any) -> Tensor | None:
    """A float32 tensor, or nothing if it does not consist of real numbers or is ragged."""
    try:
        if isinstance(answer, list | tuple) and any(isinstance(element, Tensor) for element in answer):
            answer = torch.stack([torch.as_tensor(element) for element in answer])
        if isinstance(answer, Tensor):
            return None if answer.is_complex() or answer.layout is not torch.strided else answer.float()
        array = np.ma.filled(answer.astype(np.float32), np.nan) if np.ma.isMA(answer) else np.asarray(answer)
    except Exception:  # whatever conversion other people's classes bring along
        return None
    if array.dtype.kind not in "biuf":
        return None
    with np.errstate(over="ignore"):  # infinite then, which is not judged
        return torch.from_numpy(np.array(array, np.float32))


def _shown(answer: Any) -> str:
    if isinstance(answer, Tensor | np.ndarray):
        kind = "tensor" if isinstance(answer, Tensor) else "array"
        return f"a {kind} of {str(answer.dtype).removeprefix('torch.')} of shape {tuple(answer.shape)}"
    if answer is None or isinstance(answer, float | int):
        return str(answer)
    length = f" and length {len(answer)}" if isinstance(answer, list | tuple | dict | set | str) else ""
    return f"an object of type {type(answer).__name__}{length}{_odd(answer)}"


def _odd(answer: Any) -> str:
    """Which element of a list is the first that holds no number."""
    if isinstance(answer, list | tuple):
        for place, element in enumerate(answer):
            if _numbers(element) is None:
                what = "None" if element is None else f"an object of type {type(element).__name__}"
                return f", whose element [{place}] is no number but {what}"
    return ""


def _images(count: int) -> str:
    return f"{count} image{'s' * (count != 1)}"
