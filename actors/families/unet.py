"""What families share whose denoiser is Stable Diffusion's UNet: what it may be, its sizes, its pass, its adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor

from actors import half_precision
from actors.config import PolicyConfig
from actors.families.autoencoder import check_autoencoder, pixels_per_latent
from actors.families.parts import latent_side, picture_side
from actors.families.texts import each_text_once

# Inputs beside latents, timestep and text that some UNets want, and whose they are.
_CONDITIONING = {
    "addition_embed_type": "added conditioning, as SDXL has",
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "time_cond_proj_dim": "an embedding of the guidance scale, as distilled (LCM) models have",
    "encoder_hid_dim_type": "another encoder's conditioning",
}


def check_unet(
    folder: Path, unet: UNet2DConditionModel, vae: AutoencoderKL, width: int, given: str | None = None
) -> None:
    """Refuse a UNet that does something else than text to image, or is of another model than VAE and text encoder.

    Args:
        folder: Of the pipeline.
        unet: On the meta device.
        vae: On the meta device.
        width: Of the text's embedding.
        given: The `addition_embed_type` that the family gives, if it gives one.

    Raises:
        ValueError: In one sentence.
    """
    ins, outs, latents = unet.config.in_channels, unet.config.out_channels, vae.config.latent_channels
    if ins != latents:
        raise ValueError(
            f"The model {folder} has a UNet of {ins} input channels where its VAE gives latents of {latents}: it "
            "inpaints, edits or upscales pictures, and only text to image is known."
        )
    if outs != ins:
        raise ValueError(
            f"The model {folder} has a UNet that gives {outs} channels for latents of {ins}; only predictions of the "
            "noise or the velocity, without a variance, are known."
        )
    check_autoencoder(folder, vae)
    for key, whose in _CONDITIONING.items():
        if unet.config.get(key) not in (None, given if key == "addition_embed_type" else None):
            raise ValueError(
                f"The model {folder} has a UNet that asks for {whose} ({key}={unet.config[key]!r}), which models of "
                "its kind are not given here; set policy.model to another."
            )
    widths = unet.config.cross_attention_dim
    if set(widths if isinstance(widths, (list, tuple)) else (widths,)) != {width}:
        raise ValueError(
            f"The model {folder} has text of width {width} where its UNet attends to {widths}; text encoder and UNet "
            "are of different models."
        )


def latent_shape(config: PolicyConfig, unet: UNet2DConditionModel, vae: AutoencoderKL) -> tuple[int, int, int]:
    """(C, H, W) of the pictures that a policy draws: the config's size, or the UNet's own.

    Raises:
        ValueError: If a side that is asked for does not divide by what VAE and UNet halve it by, or there is none.
    """
    factor = pixels_per_latent(vae)
    halved = factor * 2 ** (len(unet.config.down_block_types) - 1)
    own = latent_side(unet.config.sample_size, "UNet")
    height, width = (
        side if asked is None else picture_side(name, asked, halved) // factor
        for name, asked, side in zip(("height", "width"), (config.height, config.width), own, strict=True)
    )
    return unet.config.in_channels, height, width


def run_unet(unet: Any, x: Tensor, timestep: Tensor, text: Tensor, **others: Any) -> Tensor:
    """The output for states `(B, C, H, W)`, float32 as they are, whatever the UNet's own numbers."""

    def network(x: Tensor) -> Tensor:
        x = x.to(unet.dtype, memory_format=torch.channels_last)
        with each_text_once(unet, text):
            return unet(x, timestep, text, **others).sample.float()

    return half_precision.guarded(unet, unet.dtype, network, x)


def read_unet_lora(
    pipeline: type[StableDiffusionLoraLoaderMixin], tensors: Mapping[str, Tensor], unet: Any
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """An adapter file as `Family.read_lora` gives it, read as a pipeline of this class reads it."""
    state, alphas = pipeline.lora_state_dict(dict(tensors), unet_config=unet.config)
    own = {key: t for key, t in state.items() if key.startswith("unet.")}
    others = {key: t for key, t in state.items() if key not in own}
    plain = convert_unet_state_dict_to_peft({key.removeprefix("unet."): t for key, t in own.items()})
    named = {key.removeprefix("unet.").removesuffix(".alpha"): float(v) for key, v in (alphas or {}).items()}
    of_layers = {key.split(".lora_")[0]: v for key, v in convert_unet_state_dict_to_peft(named).items()}
    return {f"unet.{key}": t for key, t in plain.items()} | others, of_layers
