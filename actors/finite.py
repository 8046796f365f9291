"""The numbers of weights, looked at once they are loaded: one that is none would make every picture none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from diffusers import StableDiffusionPipeline
from torch import Tensor

from actors.model_files import STEMS, holder


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; one pass over each, which allocates nothing."""
    for name, tensor in tensors.items():
        if tensor.numel() and tensor.is_floating_point() and not all(end.isfinite() for end in tensor.aminmax()):
            return name
    return None


def check_weights(pipeline: StableDiffusionPipeline, folder: Path, variant: str | None) -> None:
    """Refuse a pipeline of which a weight is NaN or infinite.

    Args:
        pipeline: As it was loaded.
        folder: Where from.
        variant: Which of its sets of weights.

    Raises:
        ValueError: In one sentence, with the file and the tensor's name.
    """
    for part, stems in STEMS.items():
        tensors = getattr(pipeline, part).state_dict()
        if (name := not_finite(tensors)) is None:
            continue
        file, key = holder(folder / part, stems, variant, name)
        dtype = str(tensors[name].dtype).removeprefix("torch.")
        way_out = ", or set policy.dtype=float32" if dtype == "float16" else ""
        raise ValueError(
            f"The model's weights {file} hold NaN or infinity in {key}, as {dtype}; download or save the model "
            f"again{way_out}."
        )
