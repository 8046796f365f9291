"""Stable Diffusion XL, text to image: a UNet that is told the size too, and two CLIP text encoders
(`StableDiffusionXLPipeline`; Podell et al., arXiv 2307.01952).

The pictures that the UNet is told of are whole ones of the size that is drawn: original and target size are those of
the latents, and nothing is cropped, as diffusers' pipeline has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from actors.conditioning import Conditioning
from actors.config import MOST_WINDOWS, PolicyConfig
from actors.families.autoencoder import Autoencoder, pixels_per_latent
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
from actors.lora_names import kohya_unet
from actors.model_files import DIFFUSERS, TRANSFORMERS, read_json
from actors.noise_levels import NoiseLevels
from actors.schedules import read_scheduler, variance_preserving

_COMPONENTS = {  # library and classes
    "unet": ("diffusers", "UNet2DConditionModel"),
    "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"),
    "text_encoder_2": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("transformers", "CLIPTokenizer", "CLIPTokenizerFast"),
}
# What a pipeline may have besides, and of what class; the last is not loaded, whatever it is.
_OPTIONAL: dict[str, tuple[ModuleType | None, type]] = {
    "scheduler": (diffusers, diffusers.SchedulerMixin),
    "image_encoder": (transformers, transformers.PreTrainedModel),
    "feature_extractor": (None, object),
}
_STEMS = {"unet": DIFFUSERS, "vae": DIFFUSERS, "text_encoder": TRANSFORMERS, "text_encoder_2": TRANSFORMERS}
_TIME_IDS = 6  # height and width of the original, of the crop's corner, of the target


class StableDiffusionXL:
    """A Stable Diffusion XL pipeline; see `Family`.

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
        self, pipeline: StableDiffusionXLPipeline, levels: NoiseLevels, config: PolicyConfig, device: torch.device
    ) -> None:
        self._windows, self.levels = config.prompt_windows, levels
        self._readers = (
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        )
        self._zeros_for_nothing: bool = pipeline.config.force_zeros_for_empty_prompt
        # Convolutions on CPUs and tensor cores are markedly faster in this layout.
        self.network = pipeline.unet.to(memory_format=torch.channels_last)
        self._autoencoder = Autoencoder(pipeline.vae, device)
        self.latent_shape: tuple[int, ...] = latent_shape(config, self.network, pipeline.vae)
        height, width = (pixels_per_latent(pipeline.vae) * side for side in self.latent_shape[1:])
        # float32 whatever the networks are: bfloat16 makes 1024 of 1023.
        self._time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        self.text_width: int = self.network.config.cross_attention_dim

    @classmethod
    def check(cls, folder: Path, config: PolicyConfig) -> nn.Module:
        """See `Family`."""
        check_components(folder, _COMPONENTS, _OPTIONAL)
        check_variant(folder, config.variant, _STEMS)
        unet = made(folder / "unet", UNet2DConditionModel.from_config)
        vae = made(folder / "vae", AutoencoderKL.from_config)
        first = made(folder / "text_encoder", lambda values: CLIPTextModel(CLIPTextConfig.from_dict(values)))
        second = made(
            folder / "text_encoder_2", lambda values: CLIPTextModelWithProjection(CLIPTextConfig.from_dict(values))
        )
        check_unet(folder, unet, vae, first.config.hidden_size + second.config.hidden_size, given="text_time")
        _check_added(folder, unet, second.config.projection_dim)
        latent_shape(config, unet, vae)
        networks = {"unet": unet, "vae": vae, "text_encoder": first, "text_encoder_2": second}
        for name, network in networks.items():
            check_weights(folder / name, network, _STEMS[name], config.variant)
        check_clip_tokenizer(folder / "tokenizer", first.config)
        check_clip_tokenizer(folder / "tokenizer_2", second.config)
        lengths = [tokenizer.model_max_length for tokenizer in _tokenizers(folder)]
        if lengths[0] != lengths[1]:
            raise ValueError(
                f"The model {folder} has tokenizers that make {lengths[0]} and {lengths[1]} tokens, but their "
                "embeddings stand side by side; set one model_max_length in both tokenizer_config.json."
            )
        return unet

    @classmethod
    def noise_levels(cls, folder: Path, config: PolicyConfig) -> NoiseLevels:
        """See `Family`."""
        return variance_preserving(read_scheduler(str(folder)), config.steps, config.spacing)

    @classmethod
    def load(cls, folder: Path, config: PolicyConfig, device: torch.device, dtype: torch.dtype) -> StableDiffusionXL:
        """See `Family`."""
        # The published VAE overflows in float16, and says so.
        upcast = dtype == torch.float16 and read_json(folder / "vae" / "config.json").get("force_upcast", True)
        pipeline = load_pipeline(
            StableDiffusionXLPipeline,
            folder,
            config,
            device,
            dtype,
            stems=_STEMS,
            vae_dtype=torch.float32 if upcast else None,
            scheduler=read_scheduler(str(folder)),
            feature_extractor=None,
            image_encoder=None,
            add_watermarker=False,
        )
        return cls(pipeline, cls.noise_levels(folder, config), config, device)

    @staticmethod
    def read_lora(tensors: Mapping[str, Tensor], network: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        """See `Family`."""
        return read_unet_lora(StableDiffusionXLPipeline, tensors, network)

    @staticmethod
    def count_windows(folder: Path, prompts: Sequence[str]) -> tuple[list[int], int]:
        """See `Family`."""
        tokenizers = _tokenizers(folder)
        counts = [count_windows(tokenizer, prompts) for tokenizer in tokenizers]
        return [max(both) for both in zip(*counts, strict=True)], tokenizers[0].model_max_length

    @staticmethod
    def most_windows(folder: Path) -> int:
        """See `Family`; their embeddings stand one after the other, however many."""
        return MOST_WINDOWS

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """`text` `(B, L, D)` of both encoders side by side, `pooled` `(B, P)` of the second, `time_ids` `(B, 6)`."""
        return Conditioning.cat([self._embed(prompt) for prompt in prompts])

    def _embed(self, prompt: str) -> Conditioning:
        said = []
        for tokenizer, encoder in self._readers:
            ids, _ = read_windows(tokenizer, prompt, self._windows)
            said.append(encoder(ids.to(encoder.device), output_hidden_states=True))
        # The last layer but one, without the norm at the end; the pooled vector is the first window's.
        text = torch.cat([in_a_row(output.hidden_states[-2]) for output in said], dim=-1)
        return Conditioning(text=text, pooled=said[1].text_embeds[:1], time_ids=self._time_ids.to(text.device))

    def uncondition(self, prompt: str | None) -> Conditioning:
        """See `Family`; without a prompt it is zeros where the pipeline's config says so, which "" is not."""
        told = self.condition([prompt or ""])
        if prompt is not None or not self._zeros_for_nothing:
            return told
        zeros = {name: torch.zeros_like(told[name]) for name in ("text", "pooled")}
        return Conditioning(**zeros, time_ids=told["time_ids"])

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Family`."""
        added = {"text_embeds": conditioning["pooled"], "time_ids": conditioning["time_ids"]}
        return run_unet(self.network, x, timestep, conditioning["text"], added_cond_kwargs=added)

    def encode(self, images: Tensor) -> Tensor:
        """See `Family`."""
        return self._autoencoder.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """See `Family`."""
        return self._autoencoder.decode(latents)


def _tokenizers(folder: Path) -> list[Any]:
    return [CLIPTokenizer.from_pretrained(str(folder / name)) for name in ("tokenizer", "tokenizer_2")]


def _check_added(folder: Path, unet: UNet2DConditionModel, pooled: int) -> None:
    if unet.config.addition_embed_type != "text_time":
        raise ValueError(
            f"The model {folder} has a UNet that is told no size (addition_embed_type="
            f"{unet.config.addition_embed_type!r}), as Stable Diffusion XL's is; its files are of different models."
        )
    width, each = unet.config.projection_class_embeddings_input_dim, unet.config.addition_time_embed_dim
    if width != pooled + _TIME_IDS * each:
        raise ValueError(
            f"The model {folder} has a UNet that takes {width} added numbers where text and size make "
            f"{pooled + _TIME_IDS * each}: it is a refiner, which is told an aesthetic score instead of a size, or of "
            "another model than its text encoders; set policy.model to a base model."
        )
