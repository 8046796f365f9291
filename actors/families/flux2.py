"""FLUX.2 klein, text to image: a transformer, a VAE and one Qwen3 text encoder (`Flux2KleinPipeline`).

The small flow model here: klein 4B (3.9 billion parameters, 7.2 GiB in bfloat16) is freely licensed (Apache 2.0), has a
base model, which guidance and training need, beside the distilled one, and fits a card of 24 GB: with `policy.encoders:
cpu` its encoder's 7.5 GiB are not on it.

A prompt goes through the encoder's chat template, without thinking, and the network sees three of its layers side by
side, padded to 512 tokens. States are the VAE's latents in patches of 2 x 2, each channel brought to the statistics
that the VAE keeps. As FLUX.1's, the network takes sigma in its own number format; see there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from actors import half_precision
from actors.conditioning import Conditioning
from actors.config import PolicyConfig
from actors.families.autoencoder import pixels_per_latent
from actors.families.loading import load_pipeline
from actors.families.parts import (
    check_components,
    check_tokenizer,
    check_variant,
    check_weights,
    made,
    picture_side,
)
from actors.families.sequence_text import count_windows, read_whole
from actors.families.transformer_lora import read_transformer_lora
from actors.flow_schedules import even_sigmas, flow_matching, read_flow_scheduler
from actors.lora_names import folded_transformer
from actors.model_files import DIFFUSERS, TRANSFORMERS, read_json
from actors.noise_levels import NoiseLevels

_COMPONENTS = {  # library and classes
    "transformer": ("diffusers", "Flux2Transformer2DModel"),
    "vae": ("diffusers", "AutoencoderKLFlux2"),
    "text_encoder": ("transformers", "Qwen3ForCausalLM"),
    "tokenizer": ("transformers", "Qwen2TokenizerFast", "Qwen2Tokenizer"),
}
_OPTIONAL: dict[str, tuple[ModuleType | None, type]] = {"scheduler": (diffusers, diffusers.SchedulerMixin)}
_STEMS = {"transformer": DIFFUSERS, "vae": DIFFUSERS, "text_encoder": TRANSFORMERS}
_WINDOW = 512  # tokens
_LAYERS = (9, 18, 27)  # of the encoder, whose states the network sees
_SIDE = 128  # of the VAE's latents that the pipeline draws unless it is told otherwise
_PATCH = 2


class Flux2Klein:
    """A FLUX.2 klein pipeline; see `Family`.

    Args:
        pipeline: Of `load_pipeline`.
        levels: See `Family`.
        latent_shape: See `Family`.
        device: Of the transformer.
        dtype: That the transformer computes in; its own `dtype` is an adapter's where its weights are quantised.
    """

    part = "transformer"
    tells_guidance = False
    comfy = staticmethod(folded_transformer)

    def __init__(
        self,
        pipeline: Flux2KleinPipeline,
        levels: NoiseLevels,
        latent_shape: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._pipeline, self._device, self._dtype = pipeline, device, dtype
        self.levels, self.latent_shape = levels, latent_shape
        self.network = pipeline.transformer
        self.text_width: int = self.network.config.joint_attention_dim

    @classmethod
    def check(cls, folder: Path, config: PolicyConfig) -> nn.Module:
        """See `Family`."""
        check_components(folder, _COMPONENTS, _OPTIONAL)
        check_variant(folder, config.variant, _STEMS)
        networks = {
            "transformer": made(folder / "transformer", Flux2Transformer2DModel.from_config),
            "vae": made(folder / "vae", AutoencoderKLFlux2.from_config),
            "text_encoder": made(folder / "text_encoder", lambda said: Qwen3ForCausalLM(Qwen3Config.from_dict(said))),
        }
        _check_inputs(folder, networks)
        if config.guidance > 1 and read_json(folder / "model_index.json").get("is_distilled", False):
            raise ValueError(
                f"policy.guidance is {config.guidance:g}, but the model {folder} was distilled to draw without "
                "guidance (is_distilled in its model_index.json); set policy.guidance=1, which is none."
            )
        for name, network in networks.items():
            check_weights(folder / name, network, _STEMS[name], config.variant)
        tokenizer = check_tokenizer(folder / "tokenizer", Qwen2Tokenizer, networks["text_encoder"].config.vocab_size)
        if tokenizer.chat_template is None:
            raise ValueError(
                f"The model's {folder / 'tokenizer'} has no chat template, which its prompts go through; download or "
                "save the model again."
            )
        _latent_shape(folder, config)
        return networks["transformer"]

    @classmethod
    def noise_levels(cls, folder: Path, config: PolicyConfig) -> NoiseLevels:
        """See `Family`; they are shifted by the number of tokens and of steps."""
        _, height, width = _latent_shape(folder, config)
        mu = compute_empirical_mu(height * width, config.steps)
        return flow_matching(read_flow_scheduler(folder, config), config.steps, sigmas=even_sigmas(config.steps), mu=mu)

    @classmethod
    def load(cls, folder: Path, config: PolicyConfig, device: torch.device, dtype: torch.dtype) -> Flux2Klein:
        """See `Family`."""
        pipeline = load_pipeline(
            Flux2KleinPipeline,
            folder,
            config,
            device,
            dtype,
            stems=_STEMS,
            vae_dtype=torch.float32 if dtype == torch.float16 else None,  # whose range it leaves
            scheduler=read_flow_scheduler(folder, config),
        )
        return cls(pipeline, cls.noise_levels(folder, config), _latent_shape(folder, config), device, dtype)

    @staticmethod
    def read_lora(tensors: Mapping[str, Tensor], network: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        """See `Family`."""
        return read_transformer_lora(tensors, network, Flux2KleinPipeline)

    @staticmethod
    def count_windows(folder: Path, prompts: Sequence[str]) -> tuple[list[int], int]:
        """See `Family`; the template is counted with the prompt."""
        tokenizer = Qwen2Tokenizer.from_pretrained(str(folder / "tokenizer"))
        return count_windows(tokenizer, [_templated(tokenizer, prompt) for prompt in prompts], _WINDOW), _WINDOW

    @staticmethod
    def most_windows(folder: Path) -> int:
        """See `Family`."""
        return 1

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """`text` `(B, L, D)`, each prompt alone."""
        return Conditioning(text=torch.cat([self._embed(prompt) for prompt in prompts]))

    def _embed(self, prompt: str) -> Tensor:
        tokenizer, encoder = self._pipeline.tokenizer, self._pipeline.text_encoder
        if encoder.device.type == "meta":  # where transformers looks at numbers of the mask
            return torch.empty(1, _WINDOW, self.text_width, dtype=encoder.dtype, device=encoder.device)
        read_whole(tokenizer, _templated(tokenizer, prompt), _WINDOW)
        text: Tensor = self._pipeline.encode_prompt(
            prompt, encoder.device, max_sequence_length=_WINDOW, text_encoder_out_layers=_LAYERS
        )[0]
        return text

    def uncondition(self, prompt: str | None) -> Conditioning:
        """See `Family`."""
        return self.condition([prompt or ""])

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """See `Family`."""
        text = conditioning["text"].to(self._dtype)
        here = Flux2KleinPipeline._prepare_latent_ids(x[:1])[0].to(x.device)
        said = Flux2KleinPipeline._prepare_text_ids(text[:1])[0].to(x.device)

        def network(x: Tensor) -> Tensor:
            out = self.network(
                Flux2KleinPipeline._pack_latents(x.to(self._dtype)),
                encoder_hidden_states=text,
                timestep=timestep / 1000,
                img_ids=here,
                txt_ids=said,
            )
            return out.sample.float().transpose(1, 2).reshape(x.shape)

        return half_precision.guarded(self.network, self._dtype, network, x)

    @cached_property
    def _vae(self) -> Any:
        return self._pipeline.vae.to(self._device)  # at its first use: most learners have none

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        kept = self._vae.bn
        variance = kept.running_var.float() + self._vae.config.batch_norm_eps
        return kept.running_mean.float().view(1, -1, 1, 1), variance.sqrt().view(1, -1, 1, 1)

    def encode(self, images: Tensor) -> Tensor:
        """See `Family`; the mean of what the encoder gives."""
        mean, std = self._moments
        latents = self._vae.encode((2 * images - 1).to(self._vae.dtype)).latent_dist.mean.float()
        return (Flux2KleinPipeline._patchify_latents(latents) - mean) / std

    def decode(self, latents: Tensor) -> Tensor:
        """See `Family`."""
        mean, std = self._moments
        unpacked = Flux2KleinPipeline._unpatchify_latents(latents * std + mean)
        return (self._vae.decode(unpacked.to(self._vae.dtype)).sample.float() / 2 + 0.5).clamp(0, 1)


def _templated(tokenizer: Any, prompt: str) -> str:
    """A prompt as the encoder is told it."""
    said: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return said


def _latent_shape(folder: Path, config: PolicyConfig) -> tuple[int, int, int]:
    vae = made(folder / "vae", AutoencoderKLFlux2.from_config)
    multiple = pixels_per_latent(vae) * _PATCH
    height, width = (
        _SIDE // _PATCH if asked is None else picture_side(name, asked, multiple) // multiple
        for name, asked in (("height", config.height), ("width", config.width))
    )
    return vae.config.latent_channels * _PATCH**2, height, width


def _check_inputs(folder: Path, networks: Mapping[str, Any]) -> None:
    network, vae, text = (networks[name].config for name in ("transformer", "vae", "text_encoder"))
    if (vae.in_channels, vae.out_channels) != (3, 3):
        raise ValueError(f"The model {folder} has a VAE that does not decode to pictures of 3 channels.")
    packed = vae.latent_channels * _PATCH**2
    if (network.in_channels, network.out_channels or network.in_channels) != (packed, packed):
        raise ValueError(
            f"The model {folder} has a transformer of {network.in_channels} channels where its VAE's latents are "
            f"packed to {packed}; they are of different models."
        )
    if network.guidance_embeds:
        raise ValueError(
            f"The model {folder} has a transformer that is told a guidance scale, which no klein is; set policy.model "
            "to one."
        )
    width = len(_LAYERS) * text.hidden_size
    if network.joint_attention_dim != width or text.num_hidden_layers < max(_LAYERS):
        raise ValueError(
            f"The model {folder} has a text encoder of {text.num_hidden_layers} layers, {len(_LAYERS)} of which are "
            f"{width} numbers a token, where its transformer attends to {network.joint_attention_dim} of layers up to "
            f"{max(_LAYERS)}; they are of different models."
        )
