"""Adapter files of transformers, in diffusers' names or in those that a pipeline's loader converts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor

_PART = "transformer."
# Where adapters of other parts begin in diffusers' names.
_OTHERS = ("text_encoder.", "text_encoder_2.", "text_encoder_3.", "unet.")
_WRAPPERS = ("", "transformer.", "diffusion_model.")


def read_transformer_lora(
    tensors: Mapping[str, Tensor], network: Any, pipeline: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """An adapter file's tensors in peft's names, each below its part's, and the alpha of each layer that has one.

    A pipeline's loader takes nothing of keys that it does not know, and says nothing; here they are refused.

    Args:
        tensors: Of the file.
        network: The transformer that they are for.
        pipeline: Class of its pipeline, whose loader converts other formats (kohya's and others', where it can).

    Raises:
        ValueError: If it names layers in a way that none of them reads.
    """
    layers = {name for name, _ in network.named_modules()}
    state, alphas = {}, {}
    for key, tensor in tensors.items():
        plain = _known(key, layers) or key
        if plain.endswith(".alpha") and plain.startswith(_PART):
            alphas[plain.removeprefix(_PART).removesuffix(".alpha")] = float(tensor)
        else:
            state[plain] = tensor
    found = pipeline.lora_state_dict(state)
    own = {key.removeprefix(_PART): t for key, t in found.items() if key.startswith(_PART)}
    others = {key: t for key, t in found.items() if key.startswith(_OTHERS)}
    if unknown := sorted(key for key in found if not key.startswith((_PART, *_OTHERS))):
        raise ValueError(f"{unknown[0]} names no layer of a {type(network).__name__}")
    if not own:
        raise ValueError(f"nothing in it is of the {type(network).__name__}; the first of its keys is {min(tensors)}")
    own = convert_unet_state_dict_to_peft(own)  # of names older than peft's
    return {f"{_PART}{key}": t for key, t in own.items()} | others, alphas


def _known(key: str, layers: set[str]) -> str | None:
    """A key below the transformer's prefix, if it names one of its layers as diffusers does, whatever is before."""
    for wrapper in _WRAPPERS:
        plain = key.removeprefix(wrapper)
        layer = plain.removesuffix(".alpha").split(".lora")[0]
        if key.startswith(wrapper) and layer in layers:
            return f"{_PART}{plain}"
    return None
