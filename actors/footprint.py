"""The memory that a computation needs, by going through it without doing it: on the meta device, tensor by tensor.

A meta tensor has a shape and no numbers. Whatever torch code is run on such tensors makes all its results, keeps for
the way back what it would keep, and frees what it would free; a ledger of the storages that are alive is the memory
that the same code takes with numbers, but for the workspaces of single operations. Attention is counted as the fused
kernels that GPUs and CPUs have: it keeps its inputs and its output, and never the whole matrix.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak(run: Callable[[], object]) -> int:
    """Bytes that are alive at most while something runs on the meta device, beyond what there was before."""
    # Attention by an operation of its own; the meta device would take the one that makes the whole matrix. Put in its
    # place, because a mode of torch's does not reach what is computed again on the way back.
    with _Ledger() as ledger, patch.object(nn.functional, "scaled_dot_product_attention", _attention):
        run()
    return ledger.peak


def size(network: nn.Module, without: Iterable[Tensor] = ()) -> int:
    """Bytes of a network's parameters and buffers, but for some."""
    tensors = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    for tensor in without:
        tensors.pop(id(tensor), None)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


class _Ledger(TorchDispatchMode):
    """Counts the storages that operations make, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        before = {
            tensor.untyped_storage()._cdata for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._add(tensor.untyped_storage(), before)
        return result

    def _add(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key, bytes_ = storage._cdata, storage.nbytes()
        if key in self._known or key in before:  # a view, or what was there already
            return
        self._known.add(key)
        self.now += bytes_
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, bytes_)

    def _drop(self, key: int, bytes_: int) -> None:
        self._known.discard(key)
        self.now -= bytes_


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
    if attn_mask is not None and attn_mask.dim() == 3:
        attn_mask = attn_mask[:, None]
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return fused(query, key, value, attn_mask=attn_mask)[0]
