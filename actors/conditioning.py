"""What a network is told beside the state and the time: a bundle of named tensors, which only the family looks into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor


class Conditioning(Mapping[str, Tensor]):
    """Tensors by name, `(B, ...)` each, a row a sample.

    Args:
        tensors: What the family's network takes, such as `text` `(B, L, D)`.
    """

    def __init__(self, **tensors: Tensor) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors.values())

    def expand(self, samples: int) -> Conditioning:
        """The only row for so many samples, without a copy."""
        return Conditioning(**{name: t.expand(samples, *t.shape[1:]) for name, t in self._tensors.items()})

    def rows(self, rows: Tensor) -> Conditioning:
        """Some of the samples, by rows `(b,)` int64."""
        return Conditioning(**{name: tensor[rows.to(tensor.device)] for name, tensor in self._tensors.items()})

    def to(self, device: torch.device) -> Conditioning:
        """On a device."""
        return Conditioning(**{name: tensor.to(device) for name, tensor in self._tensors.items()})

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """The samples of all parts, in their order.

        Raises:
            ValueError: If they do not have the same tensors.
        """
        if any(part.keys() != parts[0].keys() for part in parts):
            raise ValueError(f"Conditionings of different tensors: {[sorted(part) for part in parts]}.")
        return Conditioning(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})
