"""The numbers of weights, looked at once they are loaded: one that is none would make every picture none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from actors.model_files import holder


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; one pass over each, which allocates nothing."""
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.is_floating_point() and not all(end.isfinite() for end in tensor.aminmax()):
            return name
    return None


def check_finite(
    networks: Mapping[str, nn.Module], folder: Path, stems: Mapping[str, dict[str, str]], variant: str | None
) -> None:
    """Refuse networks of which a weight is NaN or infinite.

    Args:
        networks: As they were loaded, by the names of their folders.
        folder: Of the pipeline.
        stems: Names of each network's weights by suffix.
        variant: Which of its sets of weights.

    Raises:
        ValueError: In one sentence, with the file and the tensor's name.
    """
    for part, network in networks.items():
        tensors = network.state_dict()
        if (name := not_finite(tensors)) is None:
            continue
        file, key = holder(folder / part, stems[part], variant, name)
        dtype = str(tensors[name].dtype).removeprefix("torch.")
        way_out = ", or set policy.dtype=float32" if dtype == "float16" else ""
        raise ValueError(
            f"The model's weights {file} hold NaN or infinity in {key}, as {dtype}; download or save the model "
            f"again{way_out}."
        )
