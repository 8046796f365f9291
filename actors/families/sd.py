"""Stable Diffusion 1 and 2, text to image: a UNet, a VAE and one CLIP text encoder (`StableDiffusionPipeline`)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_unet_state_dict_to_peft
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from actors import half_precision
from actors.conditioning import Conditioning
from actors.config import PolicyConfig
from actors.families.parts import (
    check_clip_tokenizer,
    check_components,
    check_unused,
    check_variant,
    check_weights,
    count_cut,
    latent_side,
    made,
)
from actors.finite import check_finite
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
# Inputs beside latents, timestep and text that some UNets want, and whose they are.
_CONDITIONING = {
    "addition_embed_type": "added conditioning, as SDXL has",
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "time_cond_proj_dim": "an embedding of the guidance scale, as distilled (LCM) models have",
    "encoder_hid_dim_type": "another encoder's conditioning",
}


class StableDiffusion:
    """A Stable Diffusion pipeline; see `Family`.

    Args:
        pipeline: Its networks are frozen.
        levels: See `Family`.
        device: Where they are moved.
    """

    part = "unet"
    tells_guidance = False

    def __init__(self, pipeline: StableDiffusionPipeline, levels: NoiseLevels, device: torch.device) -> None:
        self._pipeline, self._device, self.levels = pipeline.to(device), device, levels
        self.network, self._vae = pipeline.unet, pipeline.vae
        for network in (self.network, self._vae, pipeline.text_encoder):
            network.eval().requires_grad_(False)
        # Convolutions on CPUs and tensor cores are markedly faster in this layout.
        self.network.to(memory_format=torch.channels_last)
        self._vae.to(memory_format=torch.channels_last)
        self.latent_shape: tuple[int, ...] = _latent_shape(self.network)
        self.text_width: int = self.network.config.cross_attention_dim

    @classmethod
    def check(cls, folder: Path, config: PolicyConfig) -> nn.Module:
        """See `Family`."""
        check_components(folder, _COMPONENTS, _OPTIONAL)
        check_unused(folder, "image_encoder", config.variant)
        check_variant(folder, config.variant, _STEMS)
        unet = made(folder / "unet", UNet2DConditionModel.from_config)
        vae = made(folder / "vae", AutoencoderKL.from_config)
        text = made(folder / "text_encoder", lambda values: CLIPTextModel(CLIPTextConfig.from_dict(values)))
        _check_inputs(folder, unet, vae, text)
        for name, network in (("unet", unet), ("vae", vae), ("text_encoder", text)):
            check_weights(folder / name, network, _STEMS[name], config.variant)
        check_clip_tokenizer(folder / "tokenizer", text.config)
        return unet

    @classmethod
    def noise_levels(cls, folder: Path, config: PolicyConfig) -> NoiseLevels:
        """See `Family`."""
        # The pipeline sets this offset on every scheduler whose config has another one.
        scheduler = read_scheduler(str(folder), steps_offset=1)
        return variance_preserving(scheduler, config.steps, config.spacing)

    @classmethod
    def load(cls, folder: Path, config: PolicyConfig, device: torch.device, dtype: torch.dtype) -> StableDiffusion:
        """See `Family`."""
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            variant=config.variant,
            scheduler=read_scheduler(str(folder), steps_offset=1),
            dtype=dtype,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        networks = {name: getattr(pipeline, name) for name in _STEMS}
        check_finite(networks, folder, _STEMS, config.variant)
        return cls(pipeline, cls.noise_levels(folder, config), device)

    @staticmethod
    def read_lora(tensors: Mapping[str, Tensor], network: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        """See `Family`."""
        state, alphas = StableDiffusionPipeline.lora_state_dict(dict(tensors), unet_config=network.config)
        unet = {key: t for key, t in state.items() if key.startswith("unet.")}
        others = {key: t for key, t in state.items() if key not in unet}
        plain = convert_unet_state_dict_to_peft({key.removeprefix("unet."): t for key, t in unet.items()})
        named = {key.removeprefix("unet.").removesuffix(".alpha"): float(v) for key, v in (alphas or {}).items()}
        of_layers = {key.split(".lora_")[0]: v for key, v in convert_unet_state_dict_to_peft(named).items()}
        return {f"unet.{key}": t for key, t in plain.items()} | others, of_layers

    @staticmethod
    def count_cut(folder: Path, prompts: Sequence[str]) -> tuple[int, int]:
        """See `Family`."""
        return count_cut(CLIPTokenizer.from_pretrained(str(folder / "tokenizer")), prompts)

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """`text` `(B, L, D)`: L tokens of width D. One at a time: an embedding must not depend on its neighbours."""
        rows = [
            self._pipeline.encode_prompt(
                prompt, self._device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )[0]
            for prompt in prompts
        ]
        return Conditioning(text=torch.cat(rows))

    def uncondition(self, prompt: str | None) -> Conditioning:
        """See `Family`."""
        return self.condition([prompt or ""])

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Family`."""

        def network(x: Tensor) -> Tensor:
            x = x.to(self.network.dtype, memory_format=torch.channels_last)
            return self.network(x, timestep, conditioning["text"]).sample.float()

        if self.network.dtype == torch.float16:
            trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
            return half_precision.through(network, x, trained)
        return network(x)

    def encode(self, images: Tensor) -> Tensor:
        """See `Family`; the mean of what the encoder gives."""
        pixels = (2 * images - 1).to(self._vae.dtype, memory_format=torch.channels_last)
        return self._vae.encode(pixels).latent_dist.mean.float() * self._vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """See `Family`."""

        def network(latents: Tensor) -> Tensor:
            scaled = (latents / self._vae.config.scaling_factor).to(self._vae.dtype, memory_format=torch.channels_last)
            return self._vae.decode(scaled).sample.float()

        if self._vae.dtype == torch.float16:
            pictures = half_precision.through(network, latents, ())
        else:
            pictures = network(latents)
        return (pictures / 2 + 0.5).clamp(0, 1)


def _latent_shape(unet: UNet2DConditionModel) -> tuple[int, int, int]:
    return unet.config.in_channels, *latent_side(unet.config.sample_size, "UNet")


def _check_inputs(folder: Path, unet: UNet2DConditionModel, vae: AutoencoderKL, text: CLIPTextModel) -> None:
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
    if (vae.config.in_channels, vae.config.out_channels) != (3, 3):
        raise ValueError(f"The model {folder} has a VAE that does not decode to pictures of 3 channels.")
    scale = vae.config.scaling_factor
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale == 0:
        raise ValueError(
            f"The model {folder} has a VAE whose scaling_factor is {scale!r}, which latents cannot be divided by; look "
            "at its vae/config.json."
        )
    for key, whose in _CONDITIONING.items():
        if unet.config.get(key) is not None:
            raise ValueError(
                f"The model {folder} has a UNet that asks for {whose} ({key}={unet.config[key]!r}), which this policy "
                "does not give; set policy.model to a Stable Diffusion 1 or 2 model."
            )
    width, widths = text.config.hidden_size, unet.config.cross_attention_dim
    if set(widths if isinstance(widths, (list, tuple)) else (widths,)) != {width}:
        raise ValueError(
            f"The model {folder} has a text encoder of width {width} where its UNet attends to {widths}; they are of "
            "different models."
        )
    _latent_shape(unet)
