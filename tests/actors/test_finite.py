"""Weights of which a number is none are named, and nothing else is."""

from __future__ import annotations

import math

import pytest
import torch

from actors.finite import not_finite


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_first_tensor_with_an_odd_number_is_named(odd: float, dtype: torch.dtype) -> None:
    tensors = {name: torch.ones(3, 4, dtype=dtype) for name in "abc"}
    assert not_finite(tensors) is None
    for name in "cb":
        tensors[name][2, 3] = odd
    assert not_finite(tensors) == "b"


def test_what_holds_no_such_numbers_passes() -> None:
    assert not_finite({"empty": torch.empty(0), "whole": torch.tensor([2**62]), "one": torch.tensor(1.0)}) is None
