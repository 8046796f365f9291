"""A bundle of tensors: its rows stay together, and bundles of different tensors are not mixed."""

from __future__ import annotations

import pytest
import torch

from actors.conditioning import Conditioning


def bundle(samples: int) -> Conditioning:
    generator = torch.Generator().manual_seed(samples)
    return Conditioning(
        text=torch.randn(samples, 3, 2, generator=generator), pooled=torch.randn(samples, 4, generator=generator)
    )


def test_parts_are_joined_in_their_order() -> None:
    parts = [bundle(2), bundle(1), bundle(3)]
    joined = Conditioning.cat(parts)
    assert sorted(joined) == ["pooled", "text"]
    for name in joined:
        assert torch.equal(joined[name], torch.cat([part[name] for part in parts]))
    assert joined.bytes == 4 * 6 * (3 * 2 + 4)


def test_bundles_of_other_tensors_are_not_joined() -> None:
    with pytest.raises(ValueError, match=r"\['pooled', 'text'\], \['text'\]"):
        Conditioning.cat([bundle(1), Conditioning(text=torch.zeros(1, 3, 2))])


def test_one_row_is_every_samples_without_a_copy() -> None:
    one = bundle(1)
    many = one.expand(5)
    for name in many:
        assert torch.equal(many[name], one[name].repeat(5, *[1] * (one[name].dim() - 1)))
        assert many[name].data_ptr() == one[name].data_ptr()
