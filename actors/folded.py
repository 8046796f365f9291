"""LoRA layers whose weight and adapter become one matrix before they act, where that is the faster form.

    y = (W + s B A) x   instead of   y = W x + s B (A x)

On a CPU the second form goes over all rows four more times, for products of a few columns that it has little to
multiply in. The first makes the sum anew in every pass, and on the way back the gradient of the whole matrix: in small
layers both are cheap beside the rows.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn
from torch.nn import functional

SMALL = 256 * 256  # numbers of a weight; with 320 x 320 a pass with its way back is no faster than in the other form


class FoldedLinear(lora.Linear):
    """A linear layer with LoRA, as peft's own; on a CPU, if it is small, folded as the head says.

    Whatever is not one plain adapter that acts on the layer's own weight is left to peft, and so is half precision, in
    which the sum would lose the adapter.
    """

    def forward(self, x: Tensor, *args: Any, **named: Any) -> Tensor:
        """Features `(..., out)` of `(..., in)`."""
        acting = self.active_adapters
        if args or named or self.disable_adapters or self.merged or len(acting) != 1 or not self._is_plain(acting[0]):
            return super().forward(x, *args, **named)
        base: Any = self.get_base_layer()  # torch's types say that a layer's parts may be modules
        parts: Any = self.lora_A[acting[0]], self.lora_B[acting[0]]
        weight, (down, up) = base.weight, (part.weight for part in parts)
        alike = x.dtype == weight.dtype == down.dtype == up.dtype and x.dtype in (torch.float32, torch.float64)
        on_cpu = x.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if not alike or not on_cpu or weight.numel() > SMALL:
            return super().forward(x)
        return functional.linear(x, torch.addmm(weight, up, down, alpha=self.scaling[acting[0]]), base.bias)

    def _is_plain(self, adapter: str) -> bool:
        """Whether the layer has the adapter, and of it two matrices alone."""
        return (
            adapter in self.lora_A
            and adapter not in self.lora_variant
            and not self.lora_bias[adapter]
            and isinstance(self.lora_dropout[adapter], nn.Identity)
        )
