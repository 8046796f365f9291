"""A Stable Diffusion XL so small that a rollout takes milliseconds: 16 x 16 images, 8 x 8 latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    SchedulerMixin,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from shapes.networks import MAX_TOKENS, make_tokenizer


def make_sdxl(
    folder: Path,
    *,
    scheduler: SchedulerMixin | None = None,
    unet: Mapping[str, Any] | None = None,
    vae: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    text_2: Mapping[str, Any] | None = None,
    **saving: Any,
) -> Path:
    """Write a randomly initialised pipeline in the published format.

    Args:
        folder: Where to.
        scheduler: Instead of Stable Diffusion XL's, which is Euler's.
        unet: Values of the UNet's config that differ from the smallest ones, as `vae` and `text` (of both encoders).
        vae: See above.
        text: See above.
        text_2: Values of the second encoder's config that differ from the first one's.
        saving: Of diffusers' `save_pretrained`, such as `variant`.
    """
    first, second = (make_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2"))
    second.pad_token = "a"  # the token 0, which is "!" in the published one
    torch.manual_seed(0)
    of_text = dict(
        vocab_size=len(first), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS, bos_token_id=first.bos_token_id, eos_token_id=first.eos_token_id,
        pad_token_id=first.pad_token_id, projection_dim=8,
    ) | dict(text or {})  # fmt: skip
    of_unet = dict(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=40, attention_head_dim=2,
        norm_num_groups=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=8 + 6 * 4,
    )  # fmt: skip
    of_vae = dict(
        block_out_channels=(8, 8), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1, norm_num_groups=4, sample_size=16, scaling_factor=0.13025, force_upcast=True,
    )  # fmt: skip
    StableDiffusionXLPipeline(
        vae=AutoencoderKL(**of_vae | dict(vae or {})),
        text_encoder=CLIPTextModel(CLIPTextConfig(**of_text)),
        text_encoder_2=CLIPTextModelWithProjection(
            CLIPTextConfig(**of_text | {"hidden_size": 24, "hidden_act": "gelu"} | dict(text_2 or {}))
        ),
        tokenizer=first,
        tokenizer_2=second,
        unet=UNet2DConditionModel(**of_unet | dict(unet or {})),
        scheduler=scheduler or make_euler(),
        add_watermarker=False,
    ).save_pretrained(folder, **saving)
    return folder


def make_euler() -> EulerDiscreteScheduler:
    """The noise schedule that Stable Diffusion XL is published with."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )
