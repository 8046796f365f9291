"""Micro-batches that do not fit into memory, in halves: the same sums, and no gradient twice.

How large a micro-batch is does not alter what it adds up to, so one that runs out of memory is run again in halves, and
later ones are cut as small from the start. Each rank does so for itself: what the ranks agree on is who works on what.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from learner.ranks import Ranks

Result = TypeVar("Result")


def in_pieces(pieces: Sequence[Tensor], run: Callable[[Tensor], Result], ranks: Ranks) -> list[tuple[Tensor, Result]]:
    """Run on each micro-batch, or on its halves where it does not fit into memory.

    Args:
        pieces: Indices `(n,)` int64 each.
        run: On indices; what it adds to gradients it adds at its end, with `accumulate`.
        ranks: Remembers in `fitting` how many items fit.

    Returns:
        The indices that were run together, in order, and what came of them.

    Raises:
        torch.OutOfMemoryError: If a single item does not fit.
    """
    done: list[tuple[Tensor, Result]] = []
    for piece in (part for whole in pieces for part in whole.split(ranks.fitting or len(whole))):
        found = at_once(piece, run, ranks)
        done += [(piece, found[0])] if found else in_pieces([piece], run, ranks)
    return done


def at_once(piece: Tensor, run: Callable[[Tensor], Result], ranks: Ranks) -> tuple[Result] | None:
    """What comes of one micro-batch; `None` where it does not fit. Takes and raises as `in_pieces`."""
    if ranks.fitting is not None and len(piece) > ranks.fitting:
        return None
    try:
        return (run(piece),)
    except torch.OutOfMemoryError:
        if len(piece) == 1:
            raise
    # Here the exception is gone, and with it the frames that held what was computed.
    gc.collect()
    torch.cuda.empty_cache()
    ranks.fitting = len(piece) // 2
    return None


def accumulate(outputs: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
    """Add to the gradients of all leaves as `torch.autograd.backward` does, but to all of them or to none.

    Running out of memory on the way back would otherwise leave the gradients of some layers behind.
    """
    leaves = _leaves(outputs)
    for leaf, found in zip(leaves, torch.autograd.grad(outputs, leaves, gradients), strict=True):
        leaf.grad = found if leaf.grad is None else leaf.grad.add_(found)


def _leaves(outputs: Sequence[Tensor]) -> list[Tensor]:
    """The tensors that a graph begins at."""
    nodes: list[Any] = [output.grad_fn for output in outputs]
    seen, found = set(nodes), []
    while nodes:
        node = nodes.pop()
        if hasattr(node, "variable"):
            found.append(node.variable)
        fresh = [inner for inner, _ in node.next_functions if inner is not None and inner not in seen]
        seen.update(fresh)
        nodes += fresh
    return found
