"""Which samples and transitions an optimizer step sees: whole groups, the noisy end of the chain, or strata.

Strata train on a few transitions of each chain without bias: one is drawn from each, and weighted with the number of
transitions that it stands for.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


class Strata:
    """T transitions, cut into strata of neighbours.

    Args:
        transitions: T, at least 1.
        fraction: How many of them are drawn, as a share of T (rounded, at least one stratum); 1 draws all.
        always_last: The last transition is no part of a stratum: it is drawn every time, and all that is drawn weighs
            the same. This is what published code does; it has a bias towards the last one.
    """

    def __init__(self, transitions: int, fraction: float, always_last: bool = False) -> None:
        self._always_last = always_last
        others = transitions - always_last
        count = min(others, share_of(transitions, fraction))
        self._edges = torch.linspace(0, others, count + 1).round().long() if others else torch.zeros(1).long()

    def draw(self, samples: int, generator: torch.Generator) -> Tensor:
        """Transitions `(samples, k)` int64 in order: for each sample one a stratum, drawn evenly."""
        sizes = self._edges.diff()
        drawn = self._edges[:-1] + (torch.rand(samples, len(sizes), generator=generator) * sizes).long()
        return torch.cat([drawn, self._edges[-1:].expand(samples, 1)], dim=1) if self._always_last else drawn

    @property
    def weights(self) -> Tensor:
        """`(k,)` float32, how much each drawn transition counts: the number of those that it stands for."""
        sizes = self._edges.diff().float()
        return torch.ones(len(sizes) + 1) if self._always_last else sizes


def split_samples(samples: int, updates: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Cut a batch into shuffled shares, one an optimizer step, as even as they can be; none of no samples."""
    if samples:
        yield from torch.randperm(samples, generator=generator).tensor_split(min(updates, samples))


def split_groups(
    groups: Tensor, steps: int, groups_per_update: int | None, steps_per_update: int | None, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut a batch into shuffled shares of whole groups, and each of them into shuffled shares of the steps.

    Args:
        groups: `(B,)` int64.
        steps: K, stored transitions of each sample.
        groups_per_update: `None` is all.
        steps_per_update: `None` is all.
        generator: Of the order.

    Yields:
        Samples `(b,)` and columns `(k,)` of each optimizer step, int64.
    """
    found = groups.unique()
    order = found[torch.randperm(len(found), generator=generator)]
    for chosen in order.split(groups_per_update or len(order)):
        samples = torch.nonzero(torch.isin(groups, chosen)).flatten()
        columns = torch.randperm(steps, generator=generator)
        for some in columns.split(steps_per_update or len(columns)):
            yield samples, some


def noisy_steps(steps: tuple[int, ...], fraction: float) -> tuple[int, ...]:
    """A share of a chain's steps from its noisy end, at least one."""
    return steps[: share_of(len(steps), fraction)]


def share_of(count: int, fraction: float) -> int:
    """A share of something that is counted, rounded, at least one."""
    return max(1, round(fraction * count))
