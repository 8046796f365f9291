"""Exact gradients of losses that couple what they are of: all samples of a group, say.

Such a loss cannot simply be cut into micro-batches. Where its items do not fit into one, two passes give the same
gradient: the first computes every value without a graph, the loss then gives d loss / d value, and the second pass
back-propagates that, micro-batch by micro-batch. Memory does not grow with how much is coupled. What has no gradient is
computed in the first pass alone: what the second needs of it, `evaluate` keeps. Several learner ranks do the same: each
computes the values of its micro-batches, all of them the loss of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from learner.fitting import accumulate, at_once, in_pieces
from learner.ranks import ALONE, Ranks

# Of some items, by their indices `(n,)` int64, and whether only what has a gradient is wanted: values `(n,)` each. What
# has none is not looked at then, and may be left out at the end.
Evaluate = Callable[[Tensor, bool], Sequence[Tensor]]
# Of all values `(values, items)`: a scalar, and metrics.
Loss = Callable[[Tensor], tuple[Tensor, dict[str, float]]]


def backward_coupled(
    items: int,
    values: int,
    evaluate: Evaluate,
    loss: Loss,
    *,
    micro_batch: int,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> dict[str, float]:
    """Add the gradient of a loss of all items, or this rank's share of it, to all parameters that it depends on.

    Args:
        items: How many there are, such as transitions.
        values: How many each of them has; some may come without a graph, and then have no gradient.
        evaluate: Computes them.
        loss: Of all of them.
        micro_batch: Items that go through the network at a time.
        device: Of the values.
        ranks: Who shares the work.

    Returns:
        The loss's metrics, the same on every rank.
    """
    pieces = ranks.pieces(items, micro_batch)
    table = torch.zeros(values, items, device=device)

    def enter(piece: Tensor) -> None:
        table[:, piece] = torch.stack(tuple(evaluate(piece, False)))

    kept = at_once(pieces[0], lambda piece: evaluate(piece, False), ranks) if len(pieces) == 1 else None
    if kept:  # a single graph fits into memory
        table[:, pieces[0]] = torch.stack(tuple(kept[0])).detach()
    else:
        with torch.no_grad():
            in_pieces(pieces, enter, ranks)
    graphs = list(kept or ())
    del kept
    leaf = ranks.sum_(table).requires_grad_()  # zeros, where they are another rank's
    value, metrics = loss(leaf)
    value.backward()
    gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad

    def differentiate(piece: Tensor) -> None:
        again = graphs.pop() if graphs else evaluate(piece, True)
        numbers = [number for number, output in enumerate(again) if output.requires_grad]
        accumulate([again[i] for i in numbers], [gradient[i, piece] for i in numbers])

    in_pieces(pieces, differentiate, ranks)
    return metrics
