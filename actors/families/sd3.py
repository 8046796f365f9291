"""Stable Diffusion 3 and 3.5, text to image: an MMDiT, a VAE and three text encoders (`StableDiffusion3Pipeline`).

The text is CLIP-L's and CLIP-bigG's last but one hidden states side by side, with T5's after them along the sequence;
both CLIPs' projections are the pooled vector. CLIP reads the first 77 tokens of a prompt, T5 256 or 512. T5 may be left
out of the folder (`text_encoder_3` null in its index): zeros are in its place, as in diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

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
    latent_side,
    made,
    picture_side,
)
from actors.families.sequence_text import count_windows, read_whole
from actors.families.transformer_lora import read_transformer_lora
from actors.flow_schedules import dynamic_mu, flow_matching, read_flow_scheduler
from actors.lora_names import folded_transformer
from actors.model_files import DIFFUSERS, TRANSFORMERS, read_json
from actors.noise_levels import NoiseLevels

_COMPONENTS = {  # library and classes
    "transformer": ("diffusers", "SD3Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer", "CLIPTokenizerFast"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer_2": ("transformers", "CLIPTokenizer", "CLIPTokenizerFast"),
}
_T5 = {
    "text_encoder_3": ("transformers", "T5EncoderModel"),
    "tokenizer_3": ("transformers", "T5TokenizerFast", "T5Tokenizer"),
}
# For adapters of images (IP-Adapter), which are not loaded.
_OPTIONAL: dict[str, tuple[ModuleType | None, type]] = {
    "scheduler": (diffusers, diffusers.SchedulerMixin),
    "image_encoder": (transformers, transformers.PreTrainedModel),
    "feature_extractor": (None, object),
}
_STEMS = {"transformer": DIFFUSERS, "vae": DIFFUSERS, "text_encoder": TRANSFORMERS, "text_encoder_2": TRANSFORMERS}
_WINDOW = 256  # tokens that T5 reads, or twice as many


class StableDiffusion3:
    """A Stable Diffusion 3 pipeline; see `Family`.

    Args:
        pipeline: Of `load_pipeline`.
        levels: See `Family`.
        config: Of the policy.
        latent_shape: See `Family`.
        device: Of the transformer.
    """

    part = "transformer"
    tells_guidance = False
    comfy = staticmethod(folded_transformer)

    def __init__(
        self,
        pipeline: StableDiffusion3Pipeline,
        levels: NoiseLevels,
        config: PolicyConfig,
        latent_shape: tuple[int, ...],
        device: torch.device,
    ) -> None:
        self._pipeline, self._read = pipeline, _WINDOW * config.prompt_windows
        self.levels, self.latent_shape, self.network = levels, latent_shape, pipeline.transformer
        self._autoencoder = Autoencoder(pipeline.vae, device)
        self.text_width: int = self.network.config.joint_attention_dim

    @classmethod
    def check(cls, folder: Path, config: PolicyConfig) -> nn.Module:
        """See `Family`."""
        stems = _stems(folder)
        check_components(folder, _COMPONENTS | (_T5 if "text_encoder_3" in stems else {}), _OPTIONAL)
        check_variant(folder, config.variant, stems)
        networks = {
            "transformer": made(folder / "transformer", SD3Transformer2DModel.from_config),
            "vae": made(folder / "vae", AutoencoderKL.from_config),
        }
        for name in stems.keys() - networks.keys():
            networks[name] = made(folder / name, _make_t5 if name == "text_encoder_3" else _make_clip)
        _check_inputs(folder, networks)
        for name, network in networks.items():
            check_weights(folder / name, network, stems[name], config.variant)
        for number in ("", "_2"):
            check_clip_tokenizer(folder / f"tokenizer{number}", networks[f"text_encoder{number}"].config)
        if "text_encoder_3" in networks:
            check_tokenizer(folder / "tokenizer_3", T5Tokenizer, networks["text_encoder_3"].config.vocab_size)
        _latent_shape(folder, config)
        return networks["transformer"]

    @classmethod
    def noise_levels(cls, folder: Path, config: PolicyConfig) -> NoiseLevels:
        """See `Family`."""
        scheduler = read_flow_scheduler(folder, config)
        _, height, width = _latent_shape(folder, config)
        patch = read_json(folder / "transformer" / "config.json").get("patch_size", 2)
        mu = dynamic_mu(scheduler, (height // patch) * (width // patch), most=1.16)
        return flow_matching(scheduler, config.steps, mu=mu)

    @classmethod
    def load(cls, folder: Path, config: PolicyConfig, device: torch.device, dtype: torch.dtype) -> StableDiffusion3:
        """See `Family`."""
        stems = _stems(folder)
        absent = {} if "text_encoder_3" in stems else {"text_encoder_3": None, "tokenizer_3": None}
        pipeline = load_pipeline(
            StableDiffusion3Pipeline,
            folder,
            config,
            device,
            dtype,
            stems=stems,
            vae_dtype=torch.float32 if dtype == torch.float16 else None,  # whose range it leaves
            scheduler=read_flow_scheduler(folder, config),
            image_encoder=None,
            feature_extractor=None,
            **absent,
        )
        return cls(pipeline, cls.noise_levels(folder, config), config, _latent_shape(folder, config), device)

    @staticmethod
    def read_lora(tensors: Mapping[str, Tensor], network: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        """See `Family`."""
        return read_transformer_lora(tensors, network, StableDiffusion3Pipeline)

    @staticmethod
    def count_windows(folder: Path, prompts: Sequence[str]) -> tuple[list[int], int]:
        """See `Family`; of the encoder that reads most."""
        if "text_encoder_3" in _stems(folder):
            return count_windows(T5Tokenizer.from_pretrained(str(folder / "tokenizer_3")), prompts, _WINDOW), _WINDOW
        tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
        return count_windows(tokenizer, prompts, tokenizer.model_max_length), tokenizer.model_max_length

    @staticmethod
    def most_windows(folder: Path) -> int:
        """See `Family`; T5 is let read two by diffusers, and CLIP reads one."""
        return 2 if "text_encoder_3" in _stems(folder) else 1

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """`text` `(B, L, D)` and `pooled` `(B, D')`. One at a time: an embedding must not depend on its neighbours."""
        rows = [self._embed(prompt) for prompt in prompts]
        return Conditioning(text=torch.cat([row[0] for row in rows]), pooled=torch.cat([row[2] for row in rows]))

    def _embed(self, prompt: str) -> tuple[Tensor, ...]:
        if (tokenizer := self._pipeline.tokenizer_3) is not None:
            read_whole(tokenizer, prompt, self._read)
        else:
            read_whole(self._pipeline.tokenizer, prompt, self._pipeline.tokenizer.model_max_length)
        embedded: tuple[Tensor, ...] = self._pipeline.encode_prompt(
            prompt,
            None,
            None,
            device=self._pipeline.text_encoder.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self._read,
        )
        return embedded

    def uncondition(self, prompt: str | None) -> Conditioning:
        """See `Family`."""
        return self.condition([prompt or ""])

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Family`."""
        text, pooled = (conditioning[name].to(self.network.dtype) for name in ("text", "pooled"))

        def network(x: Tensor) -> Tensor:
            out = self.network(
                x.to(self.network.dtype), encoder_hidden_states=text, pooled_projections=pooled, timestep=timestep
            )
            return out.sample.float()

        return half_precision.guarded(self.network, self.network.dtype, network, x)

    def encode(self, images: Tensor) -> Tensor:
        """See `Family`."""
        return self._autoencoder.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Family`."""
        return self._autoencoder.decode(latents)


def _make_clip(values: dict[str, Any]) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(CLIPTextConfig.from_dict(values))


def _make_t5(values: dict[str, Any]) -> T5EncoderModel:
    return T5EncoderModel(T5Config.from_dict(values))


def _stems(folder: Path) -> dict[str, dict[str, str]]:
    """Names of the weights of each network that the folder has."""
    third = read_json(folder / "model_index.json").get("text_encoder_3", [None, None])
    return _STEMS if third == [None, None] else _STEMS | {"text_encoder_3": TRANSFORMERS}


def _latent_shape(folder: Path, config: PolicyConfig) -> tuple[int, int, int]:
    said = {"sample_size": 128, "patch_size": 2, "pos_embed_max_size": 96, "in_channels": 16}
    said |= read_json(folder / "transformer" / "config.json")
    factor = pixels_per_latent(made(folder / "vae", AutoencoderKL.from_config))
    multiple, most = factor * said["patch_size"], said["pos_embed_max_size"]
    own = latent_side(said["sample_size"], "transformer")
    height, width = (
        side if asked is None else picture_side(name, asked, multiple) // factor
        for name, asked, side in zip(("height", "width"), (config.height, config.width), own, strict=True)
    )
    if most and max(height, width) > most * said["patch_size"]:
        raise ValueError(
            f"Pictures of {height * factor} x {width * factor} pixels are asked for (policy.height, policy.width), but "
            f"the model {folder} has positions for sides of at most {most * multiple}."
        )
    return said["in_channels"], height, width


def _check_inputs(folder: Path, networks: Mapping[str, Any]) -> None:
    check_autoencoder(folder, networks["vae"])
    network, latents = networks["transformer"].config, networks["vae"].config.latent_channels
    if (network.in_channels, network.out_channels or network.in_channels) != (latents, latents):
        raise ValueError(
            f"The model {folder} has a transformer of {network.in_channels} input and {network.out_channels} output "
            f"channels where its VAE gives latents of {latents}: it inpaints, edits or upscales pictures, and only "
            "text to image is known."
        )
    clips = [networks[name].config for name in ("text_encoder", "text_encoder_2")]
    width, pooled = sum(clip.hidden_size for clip in clips), sum(clip.projection_dim for clip in clips)
    third = networks["text_encoder_3"].config.d_model if "text_encoder_3" in networks else network.joint_attention_dim
    if width > network.joint_attention_dim or third != network.joint_attention_dim:
        raise ValueError(
            f"The model {folder} has text encoders of width {width} (both CLIP) and {third} (T5) where its transformer "
            f"attends to {network.joint_attention_dim}; they are of different models."
        )
    if pooled != network.pooled_projection_dim:
        raise ValueError(
            f"The model {folder} has CLIP encoders that project to {pooled} numbers where its transformer is told "
            f"{network.pooled_projection_dim}; they are of different models."
        )
