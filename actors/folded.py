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
from torch import Tensor
from torch.nn import functional

SMALL = 256 * 256  # numbers of a weight; with 320 x 320 a pass with its way back is slower than in the other form


class FoldedLinear(lora.Linear):
    """A linear layer with LoRA, as peft's own; in float32 on a CPU, if it is small, folded as the head says."""

    def forward(self, x: Tensor, *args: Any, **named: Any) -> Tensor:
        """Features `(..., out)` of `(..., in)`."""
        base: Any = self.get_base_layer()  # torch's types say that a layer's parts may be modules
        weight, acting = base.weight, self.active_adapters
        alike = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu"  # half precision would lose it
        if not alike or weight.numel() > SMALL or self.disable_adapters or len(acting) != 1:
            return super().forward(x, *args, **named)
        parts: Any = self.lora_A[acting[0]], self.lora_B[acting[0]]
        down, up = (part.weight for part in parts)
        return functional.linear(x, torch.addmm(weight, up, down, alpha=self.scaling[acting[0]]), base.bias)
