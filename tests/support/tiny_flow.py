"""Randomly initialised flow models in the published formats, a few hundred kB each, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from shapes.networks import MAX_TOKENS, make_tokenizer

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def make_sd3(
    folder: Path,
    *,
    t5: bool = True,
    transformer: Mapping[str, Any] | None = None,
    vae: Mapping[str, Any] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    text_2: Mapping[str, Any] | None = None,
    text_3: Mapping[str, Any] | None = None,
    **saving: Any,
) -> Path:
    """Write a Stable Diffusion 3.5 (with dual attention): 16 x 16 images, latents (4, 8, 8).

    Args:
        folder: Where to.
        t5: Whether it has the third text encoder.
        transformer: Values of the transformer's config that differ from the smallest ones.
        vae: The same of the autoencoder's.
        scheduler: The same of the scheduler's.
        text: The same of the first CLIP's.
        text_2: The same of the second's.
        text_3: The same of T5's.
        saving: Of diffusers' `save_pretrained`, such as `variant`.
    """
    clip, t5_tokens = make_tokenizer(folder / "tokenizer"), _t5_tokenizer()
    torch.manual_seed(0)
    of_transformer = dict(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=24,
        pos_embed_max_size=12, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    clips = [{"projection_dim": 12, **(changes or {})} for changes in (text, text_2)]
    third = _alive(T5EncoderModel(_t5_config(t5_tokens, **{"d_model": 40, **(text_3 or {})}))) if t5 else None
    StableDiffusion3Pipeline(
        transformer=_alive(SD3Transformer2DModel(**of_transformer | dict(transformer or {}))),
        scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0} | dict(scheduler or {})),
        vae=_vae(**dict(vae or {})),
        text_encoder=CLIPTextModelWithProjection(_clip_config(clip, **clips[0])),
        text_encoder_2=CLIPTextModelWithProjection(_clip_config(clip, **clips[1])),
        text_encoder_3=third, tokenizer=clip, tokenizer_2=clip, tokenizer_3=t5_tokens if t5 else None,
    ).save_pretrained(folder, **saving)  # fmt: skip
    return folder


def make_flux(
    folder: Path,
    *,
    guidance: bool = True,
    transformer: Mapping[str, Any] | None = None,
    vae: Mapping[str, Any] | None = None,
    scheduler: Mapping[str, Any] | None = None,
    **saving: Any,
) -> Path:
    """Write a FLUX.1: latents (4, H / 2, W / 2), in patches of 2 x 2; see `make_sd3`.

    Args:
        folder: Where to.
        guidance: Whether it is dev, which is told the guidance and shifts its noise levels by the picture's size.
        transformer: See `make_sd3`.
        vae: See `make_sd3`.
        scheduler: See `make_sd3`.
        saving: See `make_sd3`.
    """
    clip, t5_tokens = make_tokenizer(folder / "tokenizer"), _t5_tokenizer()
    torch.manual_seed(0)
    of_transformer = dict(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=16, axes_dims_rope=(2, 2, 4), guidance_embeds=guidance,
    )  # fmt: skip
    shifting = {"shift": 3.0, "use_dynamic_shifting": True} if guidance else {"shift": 1.0}
    FluxPipeline(
        transformer=_alive(FluxTransformer2DModel(**of_transformer | dict(transformer or {}))),
        scheduler=FlowMatchEulerDiscreteScheduler(**shifting | dict(scheduler or {})),
        vae=_vae(**dict(vae or {})),
        text_encoder=CLIPTextModel(_clip_config(clip)), tokenizer=clip,
        text_encoder_2=_alive(T5EncoderModel(_t5_config(t5_tokens, d_model=24))), tokenizer_2=t5_tokens,
    ).save_pretrained(folder, **saving)  # fmt: skip
    return folder


def pack_flux(latents: torch.Tensor) -> torch.Tensor:
    """Latents `(B, C, H, W)` as FLUX's pipeline takes them, `(B, H W / 4, 4 C)`."""
    packed: torch.Tensor = FluxPipeline._pack_latents(latents, *latents.shape)
    return packed


def unpack_flux(packed: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Back to `shape` from what `pack_flux` made."""
    unpacked: torch.Tensor = FluxPipeline._unpack_latents(packed, shape[2], shape[3], 1)
    return unpacked


_KEPT_MEAN, _KEPT_STD = 0.1, 1.2  # of the latents, by the autoencoder of `make_klein`
_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}{% if not enable_thinking %}<think></think>{% endif %}"
)


def make_klein(
    folder: Path,
    *,
    distilled: bool = False,
    transformer: Mapping[str, Any] | None = None,
    text: Mapping[str, Any] | None = None,
    **saving: Any,
) -> Path:
    """Write a FLUX.2 klein: states (16, H / 4, W / 4); see `make_sd3`.

    Args:
        folder: Where to.
        distilled: Whether it draws without guidance.
        transformer: See `make_sd3`.
        text: Values of the text encoder's config that differ from the smallest ones.
        saving: See `make_sd3`.
    """
    tokenizer = Qwen2Tokenizer(vocab={letter: n for n, letter in enumerate(sorted(ByteLevel.alphabet()))}, merges=[])
    tokenizer.chat_template = _TEMPLATE
    torch.manual_seed(0)
    of_transformer = dict(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=24, timestep_guidance_channels=16, axes_dims_rope=(2, 2, 2, 2), guidance_embeds=False,
    )  # fmt: skip
    of_text = dict(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=27, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, tie_word_embeddings=True,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4, sample_size=16,
        latent_channels=4,
    )  # fmt: skip
    vae.bn.running_mean.fill_(_KEPT_MEAN)
    vae.bn.running_var.fill_(_KEPT_STD**2 - vae.config.batch_norm_eps)
    Flux2KleinPipeline(
        transformer=_alive(Flux2Transformer2DModel(**of_transformer | dict(transformer or {}))),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae, text_encoder=Qwen3ForCausalLM(Qwen3Config(**of_text | dict(text or {}))), tokenizer=tokenizer,
        is_distilled=distilled,
    ).save_pretrained(folder, **saving)  # fmt: skip
    return folder


def state_of_klein(latents: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A state, of the latents that the pipeline gives in its autoencoder's own scale."""
    state: torch.Tensor = (Flux2KleinPipeline._patchify_latents(latents) - _KEPT_MEAN) / _KEPT_STD
    return state.view(shape)


def _vae(**changes: Any) -> AutoencoderKL:
    smallest = dict(
        block_out_channels=(8, 8), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1, norm_num_groups=4, sample_size=16, latent_channels=4, scaling_factor=1.5,
        shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False,
    )  # fmt: skip
    return AutoencoderKL(**smallest | changes)


def _clip_config(tokenizer: CLIPTokenizer, **changes: Any) -> CLIPTextConfig:
    smallest: dict[str, Any] = dict(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=MAX_TOKENS, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextConfig(**smallest | changes)


def _t5_tokenizer() -> T5Tokenizer:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -10.0), ("▁", -2.0), *((letter, -3.0) for letter in _LETTERS)]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def _t5_config(tokenizer: T5Tokenizer, **changes: Any) -> T5Config:
    smallest: dict[str, Any] = dict(
        vocab_size=len(tokenizer) + 2, d_kv=8, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5Config(**smallest | changes)


def _alive(network: nn.Module) -> nn.Module:
    """The same with weights so large that prompts and times make a difference."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=1.0 / parameter[0].numel() ** 0.5)
    return network
