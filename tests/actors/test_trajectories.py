"""The records: what they refuse, and that weights notice damage on the way."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.trajectories import Request, Weights

INDEX = (("down.to_q.lora_A.weight", (2, 4)), ("down.to_q.lora_B.weight", (4, 2)))


def packed() -> Weights:
    """Sixteen parameters."""
    return Weights.pack(3, np.linspace(-1, 1, 16, dtype=np.float32), INDEX)


@given(bit=st.integers(0, 16 * 32 - 1))
def test_one_flipped_bit_is_noticed(bit: int) -> None:
    weights = packed()
    damaged = weights.flat.copy()
    damaged.view(np.uint8)[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ValueError, match="version 3 arrived damaged"):
        replace(weights, flat=damaged).copy_to(np.empty(16, np.float32))


def test_weights_verify_after_the_wire() -> None:
    """Pickled and read-only, as they come out of the object store."""
    arrived = pickle.loads(pickle.dumps(packed()))
    arrived.flat.flags.writeable = False
    own = np.empty(16, np.float32)
    arrived.copy_to(own)
    assert np.array_equal(own, packed().flat)
    assert arrived.index == INDEX


@pytest.mark.parametrize("size", [2**17, 2**17 + 1, 400_000])
def test_buffers_of_several_pieces_are_copied_whole_and_every_piece_is_verified(size: int) -> None:
    flat, own = np.random.default_rng(0).random(size, np.float32), np.empty(size, np.float32)
    weights = Weights.pack(1, flat, (("a", (size,)),))
    weights.copy_to(own)
    assert np.array_equal(own, flat)
    for damage in (0, size // 2, size - 1):
        damaged = flat.copy()
        damaged[damage] += 1
        with pytest.raises(ValueError, match="damaged"):
            replace(weights, flat=damaged).copy_to(own)


def test_weights_are_not_copied_to_where_another_adapter_was() -> None:
    with pytest.raises(ValueError, match="another adapter: 16 parameters where 15 are expected"):
        packed().copy_to(np.empty(15, np.float32))


@pytest.mark.parametrize("field", ["prompts", "prompt_index", "sample_index"])
def test_a_request_names_every_sample_in_full(field: str) -> None:
    request = Request(0, 0, ("a", "b"), (0, 1), (0, 0))
    with pytest.raises(ValueError, match="for every prompt"):
        replace(request, **{field: getattr(request, field)[:1]})


def test_records_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        packed().version = 4  # type: ignore[misc]
