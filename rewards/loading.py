"""Networks in transformers' format, loaded whole or refused: it would warn, and go on with random parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def load_network(made: Any, model: str | Path, what: str, dtype: torch.dtype = torch.float32, **how: Any) -> Any:
    """A frozen network, every parameter of which is its checkpoint's.

    Args:
        made: Class of transformers that loads it.
        model: Folder or hub name.
        what: Name of the kind of network in messages, such as `CLIP`.
        dtype: Of its parameters.
        how: Further arguments of the class's own constructor.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If the checkpoint lacks a parameter, or has one of another shape or one too many.
    """
    if Path(model).is_dir() and not (Path(model) / "config.json").is_file():  # its class may have sizes of its own
        raise FileNotFoundError(f"The {what} model in {model} (options.model) cannot be loaded: it has no config.json.")
    try:
        # Other shapes are let through here, to be refused below by name.
        network, found = made.from_pretrained(
            model, dtype=dtype, ignore_mismatched_sizes=True, output_loading_info=True, **how
        )
    except OSError as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise FileNotFoundError(f"The {what} model in {model} (options.model) cannot be loaded: {reason}.") from error
    for problem in ("missing", "mismatched", "unexpected"):
        # Old checkpoints store the constant position_ids.
        keys = [key for key in sorted(map(str, found[f"{problem}_keys"])) if not key.endswith("position_ids")]
        if keys:
            raise ValueError(
                f"The checkpoint in {model} (options.model) is not of the {what} that its config.json describes: "
                f"{len(keys)} {problem} parameters, the first is {keys[0]}."
            )
    return network.eval().requires_grad_(False)
