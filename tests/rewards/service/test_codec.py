"""Tensors on the wire: what is sent arrives, and anything else is refused in one sentence without being believed."""

from __future__ import annotations

import resource
import struct
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rewards.service.codec import Malformed, decode, decode_images, encode, encode_images
from rewards.service.reward_pb2 import Images

BOTH = ("float32", "uint8")
shapes = hnp.array_shapes(min_dims=1, max_dims=4, max_side=5)
arrays = st.one_of(hnp.arrays(np.float32, shapes), hnp.arrays(np.uint8, shapes))


def request(pixels: Any, prompts: list[str]) -> bytes:
    return Images(
        pixels=encode(pixels) if isinstance(pixels, np.ndarray) else pixels, prompts=prompts
    ).SerializeToString()


GOOD = request(np.full((2, 8, 11, 3), 7, np.uint8), ["a", "b"])


@given(arrays)
def test_an_array_survives_the_way(array: np.ndarray) -> None:
    arrived = decode(encode(array), "it", BOTH, array.ndim)
    assert arrived.dtype == array.dtype
    np.testing.assert_array_equal(arrived, array)


@given(hnp.arrays(np.float32, (3, 4, 5)), st.permutations(range(3)))
def test_an_array_in_another_order_is_sent_row_major(array: np.ndarray, order: list[int]) -> None:
    turned = array.transpose(order)
    np.testing.assert_array_equal(decode(encode(turned), "it", BOTH, 3), turned)


def test_an_arrived_array_is_a_view_of_what_arrived() -> None:
    payload = encode(np.zeros((4, 3, 512, 512), np.float32))
    before = pa.total_allocated_bytes()
    arrived = decode(payload, "it", BOTH, 4)
    assert pa.total_allocated_bytes() - before < 4096
    assert not arrived.flags.owndata
    assert not arrived.flags.writeable


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.integers(8, 12), st.integers(8, 12), st.just(3))))
def test_whole_numbers_of_255ths_travel_as_bytes_and_arrive_the_same(pixels: np.ndarray) -> None:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    arrived, prompts = decode_images(encode_images(images, ["ä"] * len(images)), 3, prompted=True)
    assert arrived.dtype == np.uint8
    np.testing.assert_array_equal(arrived, pixels)
    assert prompts == ["ä"] * len(images)


def test_other_images_arrive_bit_for_bit() -> None:
    images = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    arrived, _ = decode_images(encode_images(images, []), 2, prompted=False)
    assert arrived.dtype == np.float32
    np.testing.assert_array_equal(arrived, images.numpy())


def check(message: bytes) -> None:
    """Refused in one sentence, or what the protocol promises."""
    try:
        pixels, prompts = decode_images(message, 4, prompted=True)
    except Malformed as error:
        sentence = str(error)
    else:
        assert 1 <= len(pixels) == len(prompts) <= 4
        assert pixels.nbytes <= len(message)
        assert (pixels >= 0).all()
        return
    assert sentence.endswith(".")
    assert "\n" not in sentence


@given(st.binary(max_size=400))
def test_any_bytes_end_in_a_sentence(message: bytes) -> None:
    check(message)
    check(request(message, ["a"]))


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=9)), min_size=1, max_size=4))
def test_a_good_message_with_any_bytes_changed_ends_in_a_sentence_or_in_images(
    changes: list[tuple[int, bytes]],
) -> None:
    message = bytearray(GOOD)
    for place, value in changes:
        message[place : place + len(value)] = value
    check(bytes(message))


@given(st.integers(0, len(GOOD) - 1))
def test_a_good_message_cut_short_ends_in_a_sentence(length: int) -> None:
    with pytest.raises(Malformed):
        decode_images(GOOD[:length], 4, prompted=True)


def claims(**changes: int) -> bytes:
    """A tensor of 37 x 3 x 8 x 11 float32 whose header says something else."""
    payload = encode(np.zeros((37, 3, 8, 11), np.float32))
    strides = struct.pack("<4q", 3 * 8 * 11 * 4, 8 * 11 * 4, 11 * 4, 4)
    assert payload.count(strides) == 1
    assert payload.count(struct.pack("<q", 37)) == 1
    if "stride" in changes:
        payload = payload.replace(strides, struct.pack("<4q", *[changes["stride"]] * 4))
    return payload.replace(struct.pack("<q", 37), struct.pack("<q", changes.get("images", 37)))


@pytest.mark.parametrize(
    "payload",
    [
        claims(images=2**40),
        claims(images=2**62),
        claims(images=-1),
        claims(images=0),
        claims(stride=0),
        claims(stride=0, images=2**40),
        claims(stride=0, images=1000),
        claims(stride=0, images=2**61),
        claims(stride=-4),
        claims(stride=2**40),
        b"",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        struct.pack("<Ii", 0xFFFFFFFF, 2**31 - 1),
    ],
)
def test_a_claim_that_the_bytes_do_not_bear_out_is_refused_without_allocating_it(payload: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Malformed, match=r"^pixels "):
        decode_images(request(payload, ["a"] * 37), 64, prompted=True)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024  # KiB


def stream(column: pa.Array, **options: Any) -> bytes:
    """A record batch as an Arrow IPC stream."""
    batch = pa.record_batch([column], ["pixels"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "payload",
    [
        stream(pa.array(np.zeros(2**22, np.float32)), compression="zstd"),
        stream(pa.array(np.zeros(2**22, np.float32)), compression="lz4"),
        stream(pa.array(["a"] * 100).dictionary_encode()),
        stream(pa.nulls(2**20)),
    ],
)
def test_arrow_messages_that_could_be_bombs_are_not_tensors(payload: bytes) -> None:
    with pytest.raises(Malformed, match="not an Arrow IPC tensor"):
        decode_images(request(payload, ["a"]), 4, prompted=True)


ONE = np.zeros((1, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("pixels", "prompts", "words"),
    [
        (np.zeros((1, 8, 8, 3), np.float64), ["a"], "4 dimensions of double"),
        (np.zeros((1, 8, 8, 3), np.int8), ["a"], "4 dimensions of int8"),
        (np.zeros((8, 8, 3), np.uint8), ["a"], "3 dimensions of uint8"),
        (np.zeros((1, 8, 8, 4), np.uint8), ["a"], "(1, 8, 8, 4)"),
        (np.zeros((1, 8, 8, 3), np.float32), ["a"], "(1, 8, 8, 3)"),
        (np.zeros((1, 3, 7, 8), np.float32), ["a"], "7 x 8"),
        (np.zeros((1, 3, 8, 33), np.float32), ["a"], "at most 4 times"),
        (np.zeros((1, 3, 1025, 4097), np.float32), ["a"], "4096 pixels"),
        (np.zeros((5, 8, 8, 3), np.uint8), ["a"] * 5, "4 images, not 5"),
        (np.full((1, 3, 8, 8), np.nan, np.float32), ["a"], "NaN"),
        (np.full((1, 3, 8, 8), np.inf, np.float32), ["a"], "outside"),
        (np.full((1, 3, 8, 8), -0.01, np.float32), ["a"], "outside"),
        (np.full((1, 3, 8, 8), 1.01, np.float32), ["a"], "outside"),
        (ONE, [], "0 prompts for 1 images"),
        (ONE, ["a", "b"], "2 prompts for 1 images"),
        (ONE, ["a" * 4097], "longer than 4096"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(pixels: np.ndarray, prompts: list[str], words: str) -> None:
    with pytest.raises(Malformed) as error:
        decode_images(request(pixels, prompts), 4, prompted=True)
    assert words in str(error.value)


def test_a_question_without_prompts_takes_none() -> None:
    with pytest.raises(Malformed, match="1 prompts for no images"):
        decode_images(request(ONE, ["a"]), 4, prompted=False)


def test_one_bad_value_among_many_is_found() -> None:
    pixels = np.full((4, 3, 8, 8), 0.5, np.float32)
    pixels[3, 2, 7, 7] = np.nan
    with pytest.raises(Malformed, match="NaN"):
        decode_images(request(pixels, ["a"] * 4), 4, prompted=True)


def test_a_prompt_that_is_not_text_is_refused() -> None:
    message = request(ONE, ["abcd"])
    with pytest.raises(Malformed, match="not a reinoise"):
        decode_images(message.replace(b"abcd", b"ab\xff\xfe"), 4, prompted=True)


@pytest.mark.parametrize("field", [b"\x12\x00", b"\x7a\x00", b"\x78\x00", b"\x12\x80\x00"], ids=repr)
def test_very_many_fields_are_refused_before_they_are_parsed(field: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rewards.service.codec.Images", None)  # parsing would fail with another error
    with pytest.raises(Malformed, match="more than 65536 fields"):
        decode_images(field * 70_000, 4, prompted=True)


@given(
    st.binary(max_size=200) | st.builds(lambda head, cut: head + GOOD[cut:], st.binary(max_size=20), st.integers(0, 99))
)
def test_any_bytes_are_a_request_or_malformed(message: bytes) -> None:
    with suppress(Malformed):
        decode_images(message, 4, prompted=True)
