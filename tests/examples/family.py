"""Diffusion in pixels, an example of a family: no autoencoder, no text encoder, and states that are pictures."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from actors.conditioning import Conditioning
from actors.config import PolicyConfig
from actors.families.parts import check_components, check_weights, latent_side, made
from actors.lora_names import kohya_unet
from actors.model_files import DIFFUSERS
from actors.noise_levels import NoiseLevels
from actors.schedules import read_scheduler, variance_preserving


class PixelDiffusion:
    """A UNet of pictures in [-1, 1]; a prompt is a row of random numbers of its own."""

    part = "unet"
    tells_guidance = False
    comfy = staticmethod(kohya_unet)

    def __init__(self, folder: Path, levels: NoiseLevels, device: torch.device, dtype: torch.dtype) -> None:
        self.network = UNet2DConditionModel.from_pretrained(folder, subfolder="unet", dtype=dtype).to(device)
        self.network.eval().requires_grad_(False)
        self.levels = levels
        self.latent_shape = (3, *latent_side(self.network.config.sample_size, "UNet"))
        self.text_width = self.network.config.cross_attention_dim

    @classmethod
    def check(cls, folder: Path, config: PolicyConfig) -> nn.Module:
        check_components(folder, {"unet": ("diffusers", "UNet2DConditionModel")}, {})
        unet = made(folder / "unet", UNet2DConditionModel.from_config)
        check_weights(folder / "unet", unet, DIFFUSERS, config.variant)
        return unet

    @classmethod
    def noise_levels(cls, folder: Path, config: PolicyConfig) -> NoiseLevels:
        return variance_preserving(read_scheduler(str(folder)), config.steps, config.spacing)

    @classmethod
    def load(cls, folder: Path, config: PolicyConfig, device: torch.device, dtype: torch.dtype) -> PixelDiffusion:
        return cls(folder, cls.noise_levels(folder, config), device, dtype)

    @staticmethod
    def read_lora(tensors: Mapping[str, Tensor], network: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        return dict(tensors), {}  # in the names that `Policy.save_lora` gives

    @staticmethod
    def count_windows(folder: Path, prompts: Sequence[str]) -> tuple[list[int], int]:
        return [1] * len(prompts), 2**31  # a prompt of any length is read

    @staticmethod
    def most_windows(folder: Path) -> int:
        return 1

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        seeds = [zlib.crc32(prompt.encode()) for prompt in prompts]
        rows = [torch.randn(1, self.text_width, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return Conditioning(text=torch.stack(rows))

    def uncondition(self, prompt: str | None) -> Conditioning:
        return self.condition([prompt or ""])

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        return self.network(x.to(self.network.dtype), timestep, conditioning["text"]).sample.float()

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents / 2 + 0.5).clamp(0, 1)
