"""Keys and values of cross-attention where the passes of a UNet are told the same few texts again and again.

A rollout tells its rows few texts: guidance's half one and the same, the samples of a prompt theirs; and every step the
same ones. So the layers that make keys and values of them are given each text once, LoRA and all, and what they say is
handed to the rows; the rows' share is made again only where a layer has said something else than in the pass before.
Nothing is assumed of weights and adapters: they act in every pass, and whatever they change is seen in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn


class _Handed:
    """What rows have been handed.

    Args:
        network: A UNet.
    """

    def __init__(self, network: nn.Module) -> None:
        modules = list(network.modules())
        compiled = any(module._compiled_call_impl is not None for module in modules)  # nothing can be hooked in there
        found = [m for m in modules if isinstance(m, Attention) and m.is_cross_attention and not compiled]
        self._layers = [layer for module in found for layer in (module.to_k, module.to_v)]
        self._row = torch.empty(0, dtype=torch.int64)  # which text each row has
        self._of: dict[nn.Module, tuple[Tensor, Tensor]] = {}  # what a layer said of each text, and to each row

    @contextmanager
    def out(self, text: Tensor) -> Iterator[None]:
        """Let the layers be given each text of `(B, L, D)` once in the block, where rows of one text follow each other.

        Args:
            text: The very tensor that the network is called with.
        """
        begins = torch.cat([torch.tensor([True]), (text[1:] != text[:-1]).flatten(1).any(dim=1)])
        row, each = begins.cumsum(0) - 1, text[begins]
        if not torch.equal(row, self._row):
            self._row = row
            self._of.clear()

        def ask(_: Any, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            return (each,) if given[0] is text else None

        def hand(layer: nn.Module, given: tuple[Tensor, ...], said: Tensor) -> Tensor | None:
            if given[0] is not each:
                return None
            before = self._of.get(layer)
            if before is None or not torch.equal(before[0], said):
                before = self._of[layer] = (said, said[row])
            return before[1]

        with ExitStack() as stack:
            for layer in self._layers if len(each) < len(text) else ():
                stack.callback(layer.register_forward_pre_hook(ask).remove)
                stack.callback(layer.register_forward_hook(hand).remove)
            yield


_HANDED: ContextVar[dict[nn.Module, _Handed] | None] = ContextVar("handed", default=None)


@contextmanager
def repeated_texts() -> Iterator[None]:
    """Say that passes in the block repeat their texts."""
    token = _HANDED.set({})
    try:
        yield
    finally:
        _HANDED.reset(token)


@contextmanager
def each_text_once(network: nn.Module, text: Tensor) -> Iterator[None]:
    """Let a UNet read each text once in the block, where `repeated_texts` says that it pays.

    On a CPU, in float32 and without gradients alone, where it alters nothing but how sums may be rounded.

    Args:
        network: The UNet.
        text: `(B, L, D)`, the very tensor that it is called with.
    """
    handed = _HANDED.get()
    if handed is None or torch.is_grad_enabled() or text.device.type != "cpu" or text.dtype != torch.float32:
        yield
        return
    if network not in handed:
        handed[network] = _Handed(network)
    with handed[network].out(text):
        yield
