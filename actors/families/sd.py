"""Stable Diffusion 1 and 2, text to image: a UNet, a VAE and one CLIP text encoder (`StableDiffusionPipeline`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from actors.conditioning import Conditioning
from actors.config import MOST_WINDOWS, PolicyConfig
from actors.families.autoencoder import Autoencoder
from actors.families.clip_text import count_windows, in_a_row, read_windows
from actors.families.loading import load_pipeline
from actors.families.parts import (
    check_clip_tokenizer,
    check_components,
    check_variant,
    check_weights,
    made,
)
from actors.families.unet import check_unet, latent_shape, read_unet_lora, run_unet
from actors.flow_sigmas import flow_sigmas
from actors.lora_names import kohya_unet
from actors.model_files import DIFFUSERS, TRANSFORMERS
from actors.noise_levels import NoiseLevels
from actors.schedules import read_scheduler, variance_preserving

_COMPONENTS = {  # library and classes
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer", "CLIPTokenizerFast"),
}
# What a pipeline may have besides, and of what class; the last two are not loaded, whatever they are.
_OPTIONAL: dict[str, tuple[ModuleType | None, type]] = {
    "scheduler": (diffusers, diffusers.SchedulerMixin),
    "image_encoder": (transformers, transformers.PreTrainedModel),
    "safety_checker": (None, object),
    "feature_extractor": (None, object),
}
_STEMS = {"unet": DIFFUSERS, "vae": DIFFUSERS, "text_encoder": TRANSFORMERS}


class StableDiffusion:
    """A Stable Diffusion pipeline; see `Family`.

    Args:
        pipeline: Of `load_pipeline`.
        levels: See `Family`.
        config: Of the policy.
        device: Of the UNet.
    """

    part = "unet"
    tells_guidance = False
    comfy = staticmethod(kohya_unet)

    def __init__(
        self, pipeline: StableDiffusionPipeline, levels: NoiseLevels, config: PolicyConfig, device: torch.device
    ) -> None:
        self._pipeline, self._windows, self.levels = pipeline, config.prompt_windows, levels
        # Convolutions on CPUs and tensor cores are markedly faster in this layout.
        self.network = pipeline.unet.to(memory_format=torch.channels_last)
        self._autoencoder = Autoencoder(pipeline.vae, device)
        self.latent_shape: tuple[int, ...] = latent_shape(config, self.network, pipeline.vae)
        self.text_width: int = self.network.config.cross_attention_dim

    @classmethod
    def check(cls, folder: Path, config: PolicyConfig) -> nn.Module:
        """See `Family`."""
        check_components(folder, _COMPONENTS, _OPTIONAL)
        check_variant(folder, config.variant, _STEMS)
        unet = made(folder / "unet", UNet2DConditionModel.from_config)
        vae = made(folder / "vae", AutoencoderKL.from_config)
        text = made(folder / "text_encoder", lambda values: CLIPTextModel(CLIPTextConfig.from_dict(values)))
        check_unet(folder, unet, vae, text.config.hidden_size)
        latent_shape(config, unet, vae)
        for name, network in (("unet", unet), ("vae", vae), ("text_encoder", text)):
            check_weights(folder / name, network, _STEMS[name], config.variant)
        check_clip_tokenizer(folder / "tokenizer", text.config)
        return unet

    @classmethod
    def noise_levels(cls, folder: Path, config: PolicyConfig) -> NoiseLevels:
        """See `Family`."""
        # The pipeline sets this offset on every scheduler whose config has another one.
        scheduler = read_scheduler(str(folder), steps_offset=1)
        if scheduler.config.get("use_flow_sigmas", False):
            return flow_sigmas(scheduler, config)
        return variance_preserving(scheduler, config.steps, config.spacing)

    @classmethod
    def load(cls, folder: Path, config: PolicyConfig, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
        """See `Family`."""
        pipeline = load_pipeline(
            StableDiffusionPipeline,
            folder,
            config,
            device,
            dtype,
            stems=_STEMS,
            scheduler=read_scheduler(str(folder), steps_offset=1),
            safety_checker=None,
            feature_extractor=None,
            image_encoder=None,
            requires_safety_checker=False,
        )
        return cls(pipeline, cls.noise_levels(folder, config), config, device)

    @staticmethod
    def read_lora(tensors: Mapping[str, Tensor], network: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        """See `Family`."""
        return read_unet_lora(StableDiffusionPipeline, tensors, network)

    @staticmethod
    def count_windows(folder: Path, prompts: Sequence[str]) -> tuple[list[int], int]:
        """See `Family`."""
        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
        return count_windows(tokenizer, prompts), tokenizer.model_max_length

    @staticmethod
    def most_windows(folder: Path) -> int:
        """See `Family`; their embeddings stand one after the other, however many."""
        return MOST_WINDOWS

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """`text` `(B, L, D)`: L tokens of width D. One at a time: an embedding must not depend on its neighbours."""
        return Conditioning(text=torch.cat([self._embed(prompt) for prompt in prompts]))

    def _embed(self, prompt: str) -> Tensor:
        encoder = self._pipeline.text_encoder
        ids, mask = read_windows(self._pipeline.tokenizer, prompt, self._windows)
        seen = mask.to(encoder.device) if getattr(encoder.config, "use_attention_mask", False) else None
        return in_a_row(encoder(ids.to(encoder.device), attention_mask=seen).last_hidden_state)

    def uncondition(self, prompt: str | None) -> Conditioning:
        """See `Family`."""
        return self.condition([prompt or ""])

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Family`."""
        return run_unet(self.network, x, timestep, conditioning["text"])

    def encode(self, images: Tensor) -> Tensor:
        """See `Family`."""
        return self._autoencoder.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Family`."""
        return self._autoencoder.decode(latents)
