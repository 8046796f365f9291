"""The models that are measured: networks of published sizes with random weights, and ones that a CPU goes through."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.tiny import make_pipeline
from tests.support.tiny_flow import make_sd3
from tests.support.tiny_sdxl import make_sdxl

_TOKENS = 77  # that CLIP reads, of which the tiny tokenizer says fewer
_CLIP_L = dict(
    hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, projection_dim=768,
    max_position_embeddings=_TOKENS,
)  # fmt: skip
_VAE = dict(
    block_out_channels=(128, 256, 512, 512), down_block_types=["DownEncoderBlock2D"] * 4,
    up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=2, norm_num_groups=32,
)  # fmt: skip
_SD15: Mapping[str, dict[str, Any]] = {
    "unet": dict(
        sample_size=64, block_out_channels=(320, 640, 1280, 1280), layers_per_block=2, cross_attention_dim=768,
        attention_head_dim=8, norm_num_groups=32, down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    ),
    "vae": _VAE | dict(sample_size=512),
    "text": _CLIP_L,
}  # fmt: skip
_SDXL: Mapping[str, dict[str, Any]] = {
    "unet": dict(
        sample_size=128, block_out_channels=(320, 640, 1280), layers_per_block=2, cross_attention_dim=2048,
        attention_head_dim=(5, 10, 20), transformer_layers_per_block=(1, 2, 10), norm_num_groups=32,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2 + ("UpBlock2D",), use_linear_projection=True,
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=1280 + 6 * 256,
    ),
    "vae": _VAE | dict(sample_size=1024),
    "text": _CLIP_L,
    "text_2": dict(
        hidden_size=1280, intermediate_size=5120, num_hidden_layers=32, num_attention_heads=20, projection_dim=1280
    ),
}  # fmt: skip
# Of Stable Diffusion 3.5 medium. Its text encoders have few layers, and the published widths of what they say: they are
# asked once a prompt, and T5 alone would be 19 GB.
_SD35: Mapping[str, dict[str, Any]] = {
    "transformer": dict(
        sample_size=128, patch_size=2, in_channels=16, out_channels=16, num_layers=24, attention_head_dim=64,
        num_attention_heads=24, joint_attention_dim=4096, caption_projection_dim=1536, pooled_projection_dim=2048,
        pos_embed_max_size=384, dual_attention_layers=tuple(range(13)), qk_norm="rms_norm",
    ),
    "vae": _VAE | dict(sample_size=1024, latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609),
    "text": dict(hidden_size=768, projection_dim=768, max_position_embeddings=_TOKENS),
    "text_2": dict(hidden_size=1280, projection_dim=1280, max_position_embeddings=_TOKENS),
    "text_3": dict(d_model=4096),
}  # fmt: skip
_MAKERS: Mapping[str, tuple[Callable[..., Path], Mapping[str, Any]]] = {
    "sd15": (make_pipeline, _SD15),
    "sdxl": (make_sdxl, _SDXL),
    "sd35": (make_sd3, _SD35),
    "tiny": (make_pipeline, {}),
    "tiny_sdxl": (make_sdxl, {}),
    "tiny_sd35": (make_sd3, {}),
}
NAMES = tuple(_MAKERS)


def write(name: str, folder: Path) -> Path:
    """Write a pipeline of one of `NAMES` in the published format; returns its folder."""
    make, sizes = _MAKERS[name]
    make(folder, **sizes)
    for path in folder.glob("tokenizer*/tokenizer_config.json") if sizes else ():
        if path.parent.name == "tokenizer_3":  # T5's
            continue
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": _TOKENS}))
    return folder
