"""What it is worth to fold LoRA into its layer on a CPU: peft's form over the folded one, by width and rank.

    python -m benchmarks.folded

In seconds of CPU of one thread, forward alone and with the way back to input and adapter, in turns. The first round
counts for nothing (caches), of the others the medians are taken.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from unittest import mock

import torch
from peft import LoraConfig
from peft.tuners import lora
from torch import Tensor, nn

from actors import folded
from actors.folded import FoldedLinear
from cluster.arguments import Parser

WIDTHS, RANKS, ROUNDS = (48, 96, 160, 320, 640), (4, 8, 32), 7
_NUMBERS = 192 * 64 * 48  # of the input: rows grow fewer as they grow wider
FORMS: dict[str, Callable[..., Tensor]] = {"peft": lora.Linear.forward, "folded": FoldedLinear.forward}


def ratios(width: int, rank: int) -> tuple[float, float]:
    """Seconds of peft's form over the folded one's, of a layer from `width` to `width`: forward, and both ways."""
    plain, config = nn.Linear(width, width).requires_grad_(False), LoraConfig(r=rank, lora_alpha=rank)
    layer = FoldedLinear(plain, "policy", config=config, r=rank, lora_alpha=rank)
    x = torch.randn(max(2048, _NUMBERS // width), width, requires_grad=True)
    weights, ahead = [x, *(p for p in layer.parameters() if p.requires_grad)], torch.randn_like(x)
    seconds: dict[tuple[str, bool], list[float]] = {(name, back): [] for name in FORMS for back in (False, True)}
    for _ in range(1 + ROUNDS):
        for (name, back), taken in seconds.items():
            began = time.process_time()
            with torch.set_grad_enabled(back):
                said = FORMS[name](layer, x)
            if back:
                torch.autograd.grad(said, weights, ahead)
            taken.append(time.process_time() - began)
    median = {key: statistics.median(taken[1:]) for key, taken in seconds.items()}
    forward, both = (median["peft", back] / median["folded", back] for back in (False, True))
    return forward, both


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    Parser("benchmarks.folded", __doc__ or "").parse_args(arguments)
    torch.set_num_threads(1)
    with mock.patch.object(folded, "SMALL", max(WIDTHS) ** 2):  # all of them, to see from where on it does not pay
        for width in WIDTHS:
            for rank in RANKS:
                forward, both = ratios(width, rank)
                print(f"{width} to {width}, rank {rank}: forward {forward:.2f}, both ways {both:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
