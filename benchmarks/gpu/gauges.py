"""What is read off a device: seconds, bytes, operations, and how many of these a matrix product makes a second."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil
import torch
from torch.utils.flop_counter import FlopCounterMode

SEEN = 50e6  # bytes by which a process has to grow until allocations are all that it grows by
_SIDES = {"cuda": 8192, "cpu": 1024}  # of the matrices


def fastest(run: Callable[[], object], device: torch.device, rounds: int = 3) -> float:
    """Seconds of the fastest round, after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return min(times[1:])


def operations(run: Callable[[], object]) -> int:
    """Floating-point operations of products and convolutions, on networks that are not compiled."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a large square matrix product, which is as fast as a network could be."""
    side = _SIDES.get(device.type, _SIDES["cuda"])
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    times = 10

    def run() -> None:
        for _ in range(times):
            left @ right

    return times * 2 * side**3 / fastest(run, device)


def peak(run: Callable[[], object], device: torch.device) -> int:
    """Bytes beyond those before: of torch's allocator on a GPU, of the process on a CPU (large tensors only)."""
    run()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    process, most, done = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], process.memory_info().rss - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return max(most[0], 1)
