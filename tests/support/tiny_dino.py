"""DINOs so small that a picture takes milliseconds: random ones, in the published format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

_LAYERS: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_DROPOUT: dict[str, Any] = {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
_FROM_SMALLER: dict[str, Any] = {
    "image_size": 140,
    "patch_size": 28,
    "mlp_ratio": 2,
}  # DINOv2 itself is from larger ones: positions move
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "vit": lambda: ViTModel(
        ViTConfig(**_LAYERS, **_DROPOUT, intermediate_size=64, patch_size=32), add_pooling_layer=False
    ),
    "dinov2": lambda: Dinov2Model(Dinov2Config(**_LAYERS, **_DROPOUT, **_FROM_SMALLER)),
    "dinov2_with_registers": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**_LAYERS, **_DROPOUT, **_FROM_SMALLER)
    ),
    "dinov3_vit": lambda: DINOv3ViTModel(
        DINOv3ViTConfig(**_LAYERS, intermediate_size=64, patch_size=32, num_register_tokens=4, attention_dropout=0.3)
    ),
}


def make_dino(folder: Path, kind: str = "dinov2") -> Path:
    """Write a checkpoint with enough spread for features to vary, and the processor of DINOv2; returns its folder.

    Args:
        folder: Where.
        kind: One of `MODELS`.
    """
    model, generator = MODELS[kind](), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder
