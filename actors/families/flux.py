"""FLUX.1 dev and schnell, text to image: a transformer of packed latents, a VAE, CLIP and T5 (`FluxPipeline`).

dev is told the guidance scale, which it was distilled for, so one pass is the guided one and nothing is led away from;
schnell has no guidance. T5 reads 512 tokens of dev's prompts and 256 of schnell's, which is its most by diffusers'
documentation, though the pipeline reads 512 of both unless it is told `max_sequence_length=256`; CLIP gives one vector
of the first 77. States are (C, H, W) like other models'; the network sees patches of 2 x 2.

The network takes sigma in its own number format and multiplies it by 1000 there, so that in bfloat16 it tells about 500
times apart. Samplers and learner go the same way, which keeps their ratio at one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, T5Tokenizer

from actors import half_precision
from actors.conditioning import Conditioning
from actors.config import PolicyConfig
from actors.families.autoencoder import Autoencoder, check_autoencoder, pixels_per_latent
from actors.families.loading import load_pipeline
from actors.families.parts import (
    check_clip_tokenizer,
    check_components,
    check_tokenizer,
    check_variant,
    check_weights,
    made,
    picture_side,
)
from actors.families.sequence_text import count_windows, read_whole
from actors.families.transformer_lora import read_transformer_lora
from actors.flow_schedules import dynamic_mu, even_sigmas, flow_matching, read_flow_scheduler
from actors.lora_names import folded_transformer
from actors.model_files import DIFFUSERS, TRANSFORMERS, read_json
from actors.noise_levels import NoiseLevels

_COMPONENTS = {  # library and classes
    "transformer": ("diffusers", "FluxTransformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "tokenizer": ("transformers", "CLIPTokenizer", "CLIPTokenizerFast"),
    "text_encoder_2": ("transformers", "T5EncoderModel"),
    "tokenizer_2": ("transformers", "T5TokenizerFast", "T5Tokenizer"),
}
# For adapters of images (IP-Adapter), which are not loaded.
_OPTIONAL: dict[str, tuple[ModuleType | None, type]] = {
    "scheduler": (diffusers, diffusers.SchedulerMixin),
    "image_encoder": (transformers, transformers.PreTrainedModel),
    "feature_extractor": (None, object),
}
_STEMS = {"transformer": DIFFUSERS, "vae": DIFFUSERS, "text_encoder": TRANSFORMERS, "text_encoder_2": TRANSFORMERS}
_SIDE = 128  # of the latents that the pipeline draws unless it is told otherwise
_PATCH = 2


class Flux:
    """A FLUX.1 pipeline; see `Family`.

    Args:
        pipeline: Of `load_pipeline`.
        levels: See `Family`.
        config: Of the policy.
        latent_shape: See `Family`.
        device: Of the transformer.
    """

    part = "transformer"
    comfy = staticmethod(folded_transformer)

    def __init__(
        self,
        pipeline: FluxPipeline,
        levels: NoiseLevels,
        config: PolicyConfig,
        latent_shape: tuple[int, ...],
        device: torch.device,
    ) -> None:
        self._pipeline, self.levels, self.latent_shape = pipeline, levels, latent_shape
        self.network = pipeline.transformer
        self.tells_guidance: bool = self.network.config.guidance_embeds
        self._guidance, self._read = config.guidance, _window(self.network.config)
        self._autoencoder = Autoencoder(pipeline.vae, device)
        self.text_width: int = self.network.config.joint_attention_dim

    @classmethod
    def check(cls, folder: Path, config: PolicyConfig) -> nn.Module:
        """See `Family`."""
        check_components(folder, _COMPONENTS, _OPTIONAL)
        check_variant(folder, config.variant, _STEMS)
        networks = {
            "transformer": made(folder / "transformer", FluxTransformer2DModel.from_config),
            "vae": made(folder / "vae", AutoencoderKL.from_config),
            "text_encoder": made(folder / "text_encoder", lambda said: CLIPTextModel(CLIPTextConfig.from_dict(said))),
            "text_encoder_2": made(folder / "text_encoder_2", lambda said: T5EncoderModel(T5Config.from_dict(said))),
        }
        _check_inputs(folder, networks)
        _check_settings(folder, config, networks["transformer"].config.guidance_embeds)
        for name, network in networks.items():
            check_weights(folder / name, network, _STEMS[name], config.variant)
        check_clip_tokenizer(folder / "tokenizer", networks["text_encoder"].config)
        check_tokenizer(folder / "tokenizer_2", T5Tokenizer, networks["text_encoder_2"].config.vocab_size)
        _latent_shape(folder, config)
        return networks["transformer"]

    @classmethod
    def noise_levels(cls, folder: Path, config: PolicyConfig) -> NoiseLevels:
        """See `Family`."""
        scheduler = read_flow_scheduler(folder, config)
        _, height, width = _latent_shape(folder, config)
        mu = dynamic_mu(scheduler, (height // _PATCH) * (width // _PATCH), most=1.15)
        return flow_matching(scheduler, config.steps, sigmas=even_sigmas(config.steps), mu=mu)

    @classmethod
    def load(cls, folder: Path, config: PolicyConfig, device: torch.device, dtype: torch.dtype) -> Flux:
        """See `Family`."""
        pipeline = load_pipeline(
            FluxPipeline,
            folder,
            config,
            device,
            dtype,
            stems=_STEMS,
            vae_dtype=torch.float32 if dtype == torch.float16 else None,  # whose range it leaves
            scheduler=read_flow_scheduler(folder, config),
            image_encoder=None,
            feature_extractor=None,
        )
        return cls(pipeline, cls.noise_levels(folder, config), config, _latent_shape(folder, config), device)

    @staticmethod
    def read_lora(tensors: Mapping[str, Tensor], network: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        """See `Family`."""
        return read_transformer_lora(tensors, network, FluxPipeline)

    @staticmethod
    def count_windows(folder: Path, prompts: Sequence[str]) -> tuple[list[int], int]:
        """See `Family`; of T5, which reads most."""
        window = _window(read_json(folder / "transformer" / "config.json"))
        return count_windows(T5Tokenizer.from_pretrained(str(folder / "tokenizer_2")), prompts, window), window

    @staticmethod
    def most_windows(folder: Path) -> int:
        """See `Family`."""
        return 1

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """`text` `(B, L, D)` of T5 and `pooled` `(B, P)` of CLIP, each prompt alone."""
        return Conditioning.cat([self._embed(prompt) for prompt in prompts])

    def _embed(self, prompt: str) -> Conditioning:
        read_whole(self._pipeline.tokenizer_2, prompt, self._read)
        device = self._pipeline.text_encoder.device
        text, pooled, _ = self._pipeline.encode_prompt(prompt, device=device, max_sequence_length=self._read)
        return Conditioning(text=text, pooled=pooled)

    def uncondition(self, prompt: str | None) -> Conditioning:
        """See `Family`; nothing is led away from, so it is not asked."""
        return self.condition([prompt or ""])

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Family`."""
        (samples, channels, height, width), dtype = x.shape, self.network.dtype
        text, pooled = conditioning["text"].to(dtype), conditioning["pooled"].to(dtype)
        told = torch.full((samples,), self._guidance, device=x.device) if self.tells_guidance else None
        # Positions are float32 whatever the network is: bfloat16 makes 256 of 257.
        here = FluxPipeline._prepare_latent_image_ids(
            samples, height // _PATCH, width // _PATCH, x.device, torch.float32
        )

        def network(x: Tensor) -> Tensor:
            packed = FluxPipeline._pack_latents(x.to(dtype).contiguous(), samples, channels, height, width)
            out = self.network(
                packed,
                encoder_hidden_states=text,
                pooled_projections=pooled,
                timestep=timestep / 1000,
                guidance=told,
                img_ids=here,
                txt_ids=here.new_zeros(text.shape[1], 3),
            )
            return FluxPipeline._unpack_latents(out.sample.float(), height, width, 1)

        return half_precision.guarded(self.network, dtype, network, x)

    def encode(self, images: Tensor) -> Tensor:
        """See `Family`."""
        return self._autoencoder.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Family`."""
        return self._autoencoder.decode(latents)


def _window(transformer: Mapping[str, Any]) -> int:
    """Tokens that T5 reads."""
    return 512 if transformer.get("guidance_embeds", False) else 256


def _latent_shape(folder: Path, config: PolicyConfig) -> tuple[int, int, int]:
    vae = made(folder / "vae", AutoencoderKL.from_config)
    factor = pixels_per_latent(vae)
    height, width = (
        _SIDE if asked is None else picture_side(name, asked, factor * _PATCH) // factor
        for name, asked in (("height", config.height), ("width", config.width))
    )
    return vae.config.latent_channels, height, width


def _check_settings(folder: Path, config: PolicyConfig, told: bool) -> None:
    if not told and config.guidance > 1:
        raise ValueError(
            f"policy.guidance is {config.guidance:g}, but the model {folder} was distilled to draw without guidance "
            "(guidance_embeds is false, as schnell's is); set policy.guidance=1, which is none."
        )
    settings = {"negative_prompt": config.negative_prompt is not None, "guidance_rescale": config.guidance_rescale > 0}
    for name, given in settings.items():
        if given:
            raise ValueError(
                f"policy.{name} does nothing where guidance is not led away from a second prediction, and the model "
                f"{folder} makes one; leave it out."
            )


def _check_inputs(folder: Path, networks: Mapping[str, Any]) -> None:
    check_autoencoder(folder, networks["vae"])
    network, packed = networks["transformer"].config, networks["vae"].config.latent_channels * _PATCH**2
    if (network.in_channels, network.out_channels or network.in_channels) != (packed, packed):
        raise ValueError(
            f"The model {folder} has a transformer of {network.in_channels} input and "
            f"{network.out_channels or network.in_channels} output channels where its VAE's latents are packed to "
            f"{packed}: it fills, edits or is controlled by pictures, and only text to image is known."
        )
    widths = networks["text_encoder_2"].config.d_model, networks["text_encoder"].config.hidden_size
    if widths != (expected := (network.joint_attention_dim, network.pooled_projection_dim)):
        raise ValueError(
            f"The model {folder} has text encoders of width {widths[0]} (T5) and {widths[1]} (CLIP) where its "
            f"transformer is told {expected[0]} and {expected[1]}; they are of different models."
        )
