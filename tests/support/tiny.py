"""The smallest run there is, for tests and benchmarks that are about the machinery: what it trains says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from shapes.networks import MAX_TOKENS, make_scheduler, make_tokenizer


def make_pipeline(
    folder: Path,
    *,
    scheduler: SchedulerMixin | None = None,
    unet: Mapping[str, Any] | None = None,
    vae: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    **saving: Any,
) -> Path:
    """Write a randomly initialised pipeline in the published format: 16 x 16 images, 8 x 8 latents.

    Args:
        folder: Where to.
        scheduler: Instead of Stable Diffusion's with DDIM.
        unet: Values of the UNet's config that differ from the smallest ones, as `vae` and `text` for the others.
        vae: See above.
        text: See above.
        saving: Of diffusers' `save_pretrained`, such as `variant`.
    """
    tokenizer = make_tokenizer(folder / "tokenizer")
    torch.manual_seed(0)
    of_text = dict(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    of_unet = dict(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16, attention_head_dim=2,
        norm_num_groups=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    of_vae = dict(
        block_out_channels=(8, 8), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1, norm_num_groups=4, sample_size=16,
    )  # fmt: skip
    # In this order, which the random numbers follow.
    unet_network = UNet2DConditionModel(**of_unet | dict(unet or {}))
    vae_network = AutoencoderKL(**of_vae | dict(vae or {}))
    text_network = CLIPTextModel(CLIPTextConfig(**of_text | dict(text or {})))
    StableDiffusionPipeline(
        vae=vae_network, text_encoder=text_network, tokenizer=tokenizer, unet=unet_network,
        scheduler=scheduler or make_scheduler(),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(folder, **saving)  # fmt: skip
    return folder


def write_config(folder: Path) -> Path:
    """Write a pipeline and a config: 2 of 3 prompts x 2 samples an iteration, in 2 requests; returns the config."""
    (folder / "prompts.txt").write_text("a red circle\nfour blue stars\na green cross\n")
    (folder / "tiny.yaml").write_text(f"""
folder: {folder}
policy: {{model: {make_pipeline(folder / "pipeline")}, device: cpu, steps: 3, lora_rank: 2, lora_alpha: 2}}
prompts: {{train: {folder}/prompts.txt, held_out: {folder}/prompts.txt, per_iteration: 2, samples: 2}}
rewards: {{jpeg_compressibility: {{weight: 1.0}}}}
samplers: {{request_size: 2}}
learner: {{lr: 0.01, ema_decay: 0.5}}
evaluation: {{every: 0, samples: 2, held_out_samples: 2, features: null}}
""")
    return folder / "tiny.yaml"
