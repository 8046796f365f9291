"""What ComfyUI, and with it most tools beside diffusers, call the tensors of an adapter."""

from __future__ import annotations

import torch
from diffusers.utils import convert_state_dict_to_kohya
from torch import Tensor

from actors.adapters import AdapterTensors, LoraShape


def kohya_unet(tensors: AdapterTensors, shape: LoraShape) -> dict[str, Tensor]:
    """An adapter of a UNet under kohya's names, with its alpha in a tensor a layer.

    diffusers' helper gives the names; it writes the rank as every layer's alpha.

    Args:
        tensors: By the parameter's name in the UNet.
        shape: What the adapter is like.
    """
    renamed = convert_state_dict_to_kohya({f"unet.{name}": tensor for name, tensor in tensors.items()})
    return {name: torch.tensor(float(shape.alpha)) if name.endswith(".alpha") else t for name, t in renamed.items()}


def folded_transformer(tensors: AdapterTensors, shape: LoraShape) -> dict[str, Tensor]:
    """An adapter of a transformer under diffusers' names, which ComfyUI reads for these without their alpha.

    alpha / rank is multiplied into the second factor, so that whoever takes the rank for the alpha is right.

    Args:
        tensors: By the parameter's name in the transformer.
        shape: What the adapter is like.
    """
    scale = shape.alpha / shape.rank
    return {f"transformer.{name}": t * scale if ".lora_B." in name else t for name, t in tensors.items()}
