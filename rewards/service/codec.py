"""Tensors on the wire: Arrow IPC inside the protobuf envelope, and everything that is refused on arrival.

A tensor is Arrow's own tensor message, which cannot be compressed, has no dictionaries and no null values; reading one
makes a view of the bytes that arrived. So no length that a message claims is ever allocated: a claim that the bytes do
not bear out is an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from google.protobuf.message import DecodeError
from torch import Tensor

from rewards.reward import to_images, to_pixels
from rewards.service.reward_pb2 import DESCRIPTOR, Images, Judgement

SERVICE = DESCRIPTOR.services_by_name["RewardService"].full_name
QUESTIONS = {"Score": ("scores",), "ScoreAndGrad": ("scores", "gradients"), "Embed": ("features",)}  # fields of replies
MAX_PROMPT = 4096  # characters
MAX_FIELDS = 2**16  # of a message, before it is parsed: protobuf makes 16 bytes of each empty prompt, which has two
# Rewards resize: an image of 1 x 4096 pixels, made 224 high, would be a million wide.
MIN_SIDE, MAX_SIDE, MAX_ASPECT = 8, 4096, 4


class Malformed(ValueError):
    """A message that is not what the protocol says; the message is one sentence for its sender."""


def encode(array: np.ndarray) -> bytes:
    """An array as an Arrow IPC tensor message."""
    sink = pa.BufferOutputStream(pa.system_memory_pool())  # Arrow's own keeps what is freed
    pa.ipc.write_tensor(pa.Tensor.from_numpy(np.ascontiguousarray(array)), sink)
    return sink.getvalue().to_pybytes()


def decode(payload: bytes, name: str, dtypes: Sequence[str], ndim: int) -> np.ndarray:
    """The array of an Arrow IPC tensor message: a read-only view of its bytes.

    Args:
        payload: The message.
        name: What to call it when it is refused.
        dtypes: Of which it must have one.
        ndim: Dimensions that it must have, each of at least 1.

    Raises:
        Malformed: Whatever is wrong.
    """
    try:
        tensor = pa.ipc.read_tensor(pa.BufferReader(payload))
    except (pa.ArrowException, OSError) as error:
        raise Malformed(f"{name} is not an Arrow IPC tensor: {' '.join(str(error).split())[:200]}.") from None
    dtype = {pa.float32(): "float32", pa.uint8(): "uint8"}.get(tensor.type, str(tensor.type))
    if dtype not in dtypes or tensor.ndim != ndim:
        raise Malformed(
            f"{name} has {tensor.ndim} dimensions of {dtype}; it must have {ndim} of {' or '.join(dtypes)}."
        )
    # Strides of zero let a few bytes claim any shape; `tensor.size` would overflow where this product does not.
    if not 0 < math.prod(tensor.shape) <= len(payload) or not (array := tensor.to_numpy()).flags.c_contiguous:
        raise Malformed(f"{name} of shape {tensor.shape} is empty, or not dense and row-major.")
    return array


def encode_images(images: Tensor, prompts: Sequence[str]) -> bytes:
    """A request about images `(B, 3, H, W)` float32 in [0, 1].

    Images that are whole numbers of 1/255, as those of every rollout are, travel as bytes: a quarter of the size, and
    exactly the same numbers on arrival.
    """
    pixels = to_pixels(images)
    exact = torch.equal(to_images(pixels), images)
    return Images(pixels=encode(pixels if exact else images.numpy()), prompts=prompts).SerializeToString()


def encode_answers(question: str, answers: Sequence[np.ndarray]) -> bytes:
    """A reply: the fields of a question, in the order of `QUESTIONS`."""
    fields = {name: encode(answer) for name, answer in zip(QUESTIONS[question], answers, strict=True)}
    return Judgement(**fields).SerializeToString()


def decode_images(message: bytes, max_images: int, *, prompted: bool) -> tuple[np.ndarray, list[str]]:
    """What a request asks about.

    Args:
        message: The serialised `Images`.
        max_images: The most that it may hold.
        prompted: Whether there is to be one prompt an image, or none.

    Returns:
        `(B, 3, H, W)` float32 in [0, 1] or `(B, H, W, 3)` uint8, and the prompts.

    Raises:
        Malformed: Whatever is wrong.
    """
    try:
        _check_fields(message)
        request = Images.FromString(message)
    except (DecodeError, IndexError):
        raise Malformed("The request is not a reinoise.reward.v1.Images message.") from None
    pixels = decode(request.pixels, "pixels", ("float32", "uint8"), 4)
    whole = pixels.dtype == np.uint8
    height, width, channels = pixels.shape[1:] if whole else (*pixels.shape[2:], pixels.shape[1])
    if channels != 3:
        raise Malformed(f"pixels has shape {pixels.shape}; it must be (B, 3, H, W) float32 or (B, H, W, 3) uint8.")
    if not MIN_SIDE <= min(height, width) <= max(height, width) <= min(MAX_SIDE, MAX_ASPECT * min(height, width)):
        raise Malformed(
            f"The images are {height} x {width}; sides may have {MIN_SIDE} to {MAX_SIDE} pixels, and the longer one at "
            f"most {MAX_ASPECT} times the shorter one's."
        )
    if len(pixels) > max_images:
        raise Malformed(f"A request may hold {max_images} images, not {len(pixels)}; send several requests.")
    # NaN is neither at least 0 nor at most 1.
    if not whole and not (pixels.min() >= 0 and pixels.max() <= 1):
        raise Malformed("The images have values that are NaN or outside of [0, 1].")
    if len(request.prompts) != (len(pixels) if prompted else 0):
        raise Malformed(f"There are {len(request.prompts)} prompts for {len(pixels) if prompted else 'no'} images.")
    if any(len(prompt) > MAX_PROMPT for prompt in request.prompts):
        raise Malformed(f"A prompt is longer than {MAX_PROMPT} characters.")
    return pixels, list(request.prompts)


def _check_fields(message: bytes) -> None:
    """Refuse a message of very many fields; those that are no message are left to protobuf.

    Raises:
        IndexError: If it ends within a field.
        Malformed: If there are too many.
    """
    place = 0
    for _ in range(MAX_FIELDS):
        if place >= len(message):
            return
        tag, place = _varint(message, place)
        kind = tag & 7
        if kind == 0:
            _, place = _varint(message, place)
        elif kind == 2:
            length, place = _varint(message, place)
            place += length
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            return  # a group, which protobuf refuses: ours has none
    raise Malformed(f"The request has more than {MAX_FIELDS} fields.")


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """A number at a place of a message, and the place after it."""
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128 or shift > 63:
            return value, place
