"""For rewards on packages of others: imports them without all that they import, and loads checkpoints strictly."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn


def placeholder(name: str, **attributes: Any) -> None:
    """Stand in for a module that a package imports but that is not called here, unless it is loaded already."""
    module = ModuleType(name, "Stands in for a module that is imported, but not used.")
    vars(module).update(attributes)
    sys.modules.setdefault(name, module)


def import_torchvision() -> None:
    """Import torchvision, also beside a torch that its compiled part was not built for, such as a CPU torch.

    Without its compiled part it stumbles on import over two operators that nobody has defined. Its transforms, which
    are all that is used here, need neither.
    """
    try:
        import_module("torchvision")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        import_module("torchvision")


def load_weights(model: nn.Module, weights: Mapping[str, Tensor], source: str, unused: tuple[str, ...] = ()) -> None:
    """Load a checkpoint that has to hold every parameter of the model and no other.

    Args:
        model: To load into.
        weights: By name.
        source: Of the weights, for the message.
        unused: Prefixes of parameters that nothing depends on, which may be missing, or there in vain.

    Raises:
        ValueError: If names or shapes differ.
    """
    own = model.state_dict()
    needed = {name for name, _ in model.named_parameters() if not name.startswith(unused)}
    wrong = {
        "missing": needed - weights.keys(),
        "unknown": {name for name in weights.keys() - own.keys() if not name.startswith(unused)},
        "of another shape": {name for name in weights.keys() & own.keys() if weights[name].shape != own[name].shape},
    }
    found = [f"{len(names)} {what} ({', '.join(sorted(names)[:3])})" for what, names in wrong.items() if names]
    if found:
        raise ValueError(f"The checkpoint {source} is not of this model; of its weights are {' and '.join(found)}.")
    model.load_state_dict(weights, strict=False)
