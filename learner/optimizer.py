"""The optimizer of the policy: AdamW, or bitsandbytes' with averages of 8 bits, where that is installed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

OptimizerName = Literal["adamw", "adamw_8bit"]
AVERAGES = {"adamw": 2.0, "adamw_8bit": 0.5}  # memory of its two averages, in multiples of the float32 parameters'


def make_optimizer(name: OptimizerName, parameters: Iterable[nn.Parameter], **settings: Any) -> torch.optim.Optimizer:
    """The optimizer of some parameters; the settings are AdamW's."""
    if name == "adamw":
        return torch.optim.AdamW(parameters, **settings)
    made: torch.optim.Optimizer = import_module("bitsandbytes").optim.AdamW8bit(parameters, **settings)
    return made


def check_optimizer(name: OptimizerName, device: torch.device) -> None:
    """Raises `ValueError`, in one sentence, where an optimizer is not installed or does not run on a device."""
    if name == "adamw":
        return
    if device.type != "cuda":
        raise ValueError(f"learner.optimizer={name} needs a GPU, and the policy is on {device}; set it to adamw.")
    if find_spec("bitsandbytes") is None:
        raise ValueError(
            f"learner.optimizer={name} needs bitsandbytes, which is not installed; run `pip install bitsandbytes` "
            "where the learner runs, or set it to adamw."
        )
