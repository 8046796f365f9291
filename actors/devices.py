"""Where the networks are and in which number format."""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from typing import Literal

import torch

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]


def parse_device(name: str) -> torch.device | None:
    """The torch device of a name, whether this machine has it or not; `None` for `auto`.

    Raises:
        ValueError: If torch knows no such device, or none on which anything is computed.
    """
    if name == "auto":
        return None
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "meta":
        raise ValueError(f"torch knows no device {name!r} to compute on; write auto, cpu, cuda, cuda:1 or mps")
    return device


def pick_device(name: str) -> torch.device:
    """The torch device of a name; `auto` is cuda where there is one, else cpu.

    Raises:
        ValueError: If this machine has no such device.
    """
    device = parse_device(name) or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        return device
    module = getattr(torch, device.type, None)
    if module is None or not module.is_available():
        raise ValueError(f"policy.device is {name}, but torch finds no {device.type} here; set policy.device=auto.")
    if device.index is not None and device.index >= (count := module.device_count()):
        raise ValueError(f"policy.device is {name}, but torch finds only {count} of them here; count from 0.")
    return device


def keep_freed_memory() -> None:
    """Tell glibc to keep blocks of up to 32 MiB that this process frees; other C libraries are left as they are.

    They are otherwise given back as soon as a few of them are free, and come anew from the system page by page and
    zeroed (`docs/performance.md`). Larger blocks are still given back at once: glibc does not always join aligned ones
    that are freed side by side, and would keep many times what is needed.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_threshold = -1, -3
        if libc.mallopt(m_mmap_threshold, 32 * 2**20):  # which is 0 where it is refused
            libc.mallopt(m_trim_threshold, -1)


def pick_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """The number format of a name; `auto` is float32 on CPUs, else bfloat16, whose range is float32's."""
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def check_bitsandbytes(setting: str, device: torch.device, instead: str) -> None:
    """Refuse a setting that bitsandbytes does, where that is not installed or the device is none of its.

    Args:
        setting: With its value.
        device: That it would run on.
        instead: What to set where it cannot be, such as `policy.quantise=null`.

    Raises:
        ValueError: In one sentence.
    """
    if device.type != "cuda":
        raise ValueError(f"{setting} needs a GPU, and the policy is on {device}; set {instead}.")
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"{setting} needs bitsandbytes, which is not installed; run `pip install bitsandbytes` where samplers and "
            f"learner run, or set {instead}."
        )
