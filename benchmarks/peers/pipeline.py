"""What the plain loops share: a pipeline from its folder, a LoRA adapter by peft, the prompts' embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from torch import Tensor, nn

from benchmarks.peers.work import Work

_TARGETS = ["to_k", "to_q", "to_v", "to_out.0"]


def load(folder: str) -> Any:
    """A Stable Diffusion pipeline of frozen float32 networks."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    for network in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        network.requires_grad_(False)
    return pipeline


def adapted(unet: Any, work: Work) -> list[nn.Parameter]:
    """Add an adapter to a denoiser; returns its parameters."""
    shape = LoraConfig(r=work.rank, lora_alpha=work.alpha, init_lora_weights="gaussian", target_modules=_TARGETS)
    unet.add_adapter(shape)
    return [parameter for parameter in unet.parameters() if parameter.requires_grad]


@torch.no_grad()
def text(pipeline: Any, prompts: Sequence[str]) -> Tensor:
    """Embeddings `(B, L, D)`."""
    ids = pipeline.tokenizer(list(prompts), padding="max_length", truncation=True, return_tensors="pt").input_ids
    return pipeline.text_encoder(ids).last_hidden_state


def guided_text(pipeline: Any, prompts: Sequence[str]) -> Tensor:
    """What guidance needs `(2, B, L, D)`: no prompt, and the prompts."""
    return torch.stack([text(pipeline, [""] * len(prompts)), text(pipeline, prompts)])
