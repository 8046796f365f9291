"""Gradients through a network whose numbers are float16: scaled on the way in, unscaled on the way out.

float16 has nothing between 0 and 6e-8, and the gradients of a mean over many samples and dimensions are smaller than
that by the time they reach a layer: unscaled, the adapter loses a quarter of its gradient. So the gradient that arrives
at a network's output is multiplied by a power of two that brings its largest entry to `PEAK`, and what leaves through
the network's input and its parameters is divided by it, in float32. All else sees true gradients: no loss, no clipping,
no sum over ranks knows of the factor. Where the scaled gradient overflows inside, the way back is taken again with a
smaller factor; where none is small enough, it is not finite and the learner says so.

After the loss scaling of Micikevicius et al. (arXiv 1710.03740), with the factor of every backward pass its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

PEAK = 2.0**4  # 2^12 below the largest float16, for what grows on the way; 2^28 above the smallest
_BACK_OFF = 2.0**-6
_TRIES = 6


def through(network: Callable[[Tensor], Tensor], x: Tensor, parameters: Sequence[nn.Parameter]) -> Tensor:
    """The output of `network(x)`, with a way back that does not underflow.

    Args:
        network: From float32 to float32, float16 within.
        x: The input, float32.
        parameters: Those of its parameters that are trained, float32.
    """
    if not torch.is_grad_enabled():
        return network(x)
    out: Tensor = _Through.apply(network, x, *parameters)
    return out


def guarded(network: nn.Module, dtype: torch.dtype, call: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`call(x)`, which goes through a network with adapters: as it is, or `through` where it computes in float16."""
    if dtype != torch.float16:
        return call(x)
    return through(call, x, [parameter for parameter in network.parameters() if parameter.requires_grad])


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, network: Callable[[Tensor], Tensor], x: Tensor, *parameters: nn.Parameter) -> Tensor:
        with torch.enable_grad():
            leaf = x.detach().requires_grad_(ctx.needs_input_grad[1])
            ctx.out, ctx.inputs = network(leaf), (leaf, *parameters)
        return ctx.out.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        wanted = [tensor for tensor, needed in zip(ctx.inputs, ctx.needs_input_grad[1:], strict=True) if needed]
        found: list[Tensor | None] = []
        scale = _power_of_two(gradient)
        for _ in range(_TRIES):
            scaled = torch.autograd.grad(ctx.out, wanted, gradient * scale, retain_graph=True, allow_unused=True)
            found = [None if g is None else g.float() / scale for g in scaled]
            if all(g is None or g.is_meta or bool(g.isfinite().all()) for g in found):
                break
            scale *= _BACK_OFF
        rest = iter(found)
        return None, *(next(rest) if needed else None for needed in ctx.needs_input_grad[1:])


def _power_of_two(gradient: Tensor) -> float:
    if gradient.is_meta:  # without numbers, for an estimate of memory
        return 1.0
    largest = float(gradient.abs().max()) if gradient.numel() else 0.0
    if not 0 < largest < float("inf"):
        return 1.0
    exponent = torch.tensor(PEAK / largest, dtype=torch.float64).log2().floor()
    return float(2.0 ** exponent.clamp(-60, 60))
