"""The denoiser compiled by torch: block by block where its blocks repeat, which takes less of the start, else whole."""

from __future__ import annotations

from typing import Any

import torch
from torch._dynamo import config as dynamo
from torch._functorch import config as functorch
from torch._inductor.cpp_builder import get_cpp_compiler
from torch._inductor.exc import InvalidCxxCompiler
from torch.utils._triton import has_triton

# Each adapter that acts, or none, with gradients and without, at each width of block and size of batch is compiled for
# itself; torch gives up at 8 and goes on uncompiled.
_VARIANTS = 64


def compile_network(network: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Compile what a network computes, in place: parameters, their names and the adapters stay as they are.

    Each variant is compiled when it is first needed, which takes from seconds to minutes.

    Raises:
        ValueError: If nothing can be compiled for the device here, or nothing that samplers and learner agree on.
    """
    check_compiler(device, dtype)
    dynamo.recompile_limit = max(dynamo.recompile_limit, _VARIANTS)
    functorch.donated_buffer = False  # what a way back frees, float16's second one would miss
    if getattr(network, "_repeated_blocks", None):
        network.compile_repeated_blocks()
    else:
        network.compile()


def check_compiler(device: torch.device, dtype: torch.dtype) -> None:
    """Refuse what torch cannot compile here, C++ for CPUs and Triton for GPUs, or not to one result.

    Raises:
        ValueError: In one sentence.
    """
    if device.type != "cpu":
        if not has_triton():
            raise ValueError(
                f"policy.compile needs Triton, which is not installed or does not know the device {device}; set "
                "policy.compile=false."
            )
        return
    if dtype != torch.float32:
        raise ValueError(
            "policy.compile on a CPU is for float32 alone, because in half precision each compiled variant rounds in "
            "its own way there and samplers and learner do not agree; set policy.dtype=float32 or policy.compile=false."
        )
    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ValueError(
            "policy.compile needs a C++ compiler on a CPU, and none is found; install g++, name another in the "
            "environment variable CXX, or set policy.compile=false."
        ) from None
