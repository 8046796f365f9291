"""Training on a few transitions of each chain without bias: one from each stratum, and the last one always.

The last transition is where the reward enters, so it is never left out; every drawn transition is weighted with the
number of transitions that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class Strata:
    """T transitions, cut into strata of neighbours and the last one.

    Args:
        transitions: T, at least 1.
        fraction: How many of them are drawn, as a share of T (rounded, at least one stratum); 1 draws all.
    """

    def __init__(self, transitions: int, fraction: float) -> None:
        others = transitions - 1
        count = min(others, max(1, round(fraction * transitions)))
        self._edges = torch.linspace(0, others, count + 1).round().long() if others else torch.zeros(1).long()

    def draw(self, samples: int, generator: torch.Generator) -> Tensor:
        """Transitions `(samples, k)` int64: for each sample one a stratum, drawn evenly, then the last."""
        sizes = self._edges.diff()
        within = (torch.rand(samples, len(sizes), generator=generator) * sizes).long()
        last = self._edges[-1].expand(samples, 1)
        return torch.cat([self._edges[:-1] + within, last], dim=1)

    @property
    def weights(self) -> Tensor:
        """`(k,)` float32, the number of transitions that each drawn one stands for; they sum to T."""
        return torch.cat([self._edges.diff(), torch.ones(1, dtype=torch.int64)]).float()


def split_samples(samples: int, updates: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Cut a batch into shuffled shares, one an optimizer step, as even as they can be; none of no samples."""
    if samples:
        yield from torch.randperm(samples, generator=generator).tensor_split(min(updates, samples))
