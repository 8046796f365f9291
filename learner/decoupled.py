"""Gradients of losses that are sums over what they are of: one pass, loss by loss.

A loss that couples samples needs `learner.likelihood.backward`, which goes over them twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from torch import Tensor

from learner.fitting import accumulate, in_pieces
from learner.ranks import ALONE, Ranks

# Of some of the items, by their indices `(n,)` int64: their part of the loss, with its graph, and of the metrics.
Loss = Callable[[Tensor], tuple[Tensor, Mapping[str, Tensor | float]]]


def backward_each(items: int, loss: Loss, *, micro_batch: int, ranks: Ranks = ALONE) -> dict[str, float]:
    """Add the gradient of a sum over items, or this rank's share of it, to all parameters that the loss depends on.

    Args:
        items: How many there are: samples, or transitions.
        loss: Of a micro-batch of them.
        micro_batch: Items that go through the network at a time.
        ranks: Who shares the work.

    Returns:
        The metrics, each summed over the items, the same on every rank.
    """
    totals: dict[str, float] = defaultdict(float)

    def run(piece: Tensor) -> Mapping[str, Tensor | float]:
        value, metrics = loss(piece)
        accumulate([value], [None])
        return metrics

    for _, metrics in in_pieces(ranks.pieces(items, micro_batch), run, ranks):
        for name, part in metrics.items():
            totals[name] += float(part)
    return ranks.sum_metrics(totals)
