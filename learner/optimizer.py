"""The optimizer of the policy: AdamW, or bitsandbytes' with averages of 8 bits, where that is installed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any, Literal

import torch
from torch import nn

from actors.devices import check_bitsandbytes

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
    if name != "adamw":
        check_bitsandbytes(f"learner.optimizer={name}", device, "learner.optimizer=adamw")
