"""A denoiser whose frozen weights are quantised while they are loaded, by bitsandbytes through diffusers."""

from __future__ import annotations

import torch
from diffusers import BitsAndBytesConfig
from diffusers.quantizers import PipelineQuantizationConfig

from actors.config import PolicyConfig, Quantised
from actors.devices import check_bitsandbytes

BYTES: dict[Quantised, float] = {"int8": 1.0, "nf4": 0.5}  # of a weight of a linear layer; the others stay as they are


def quantisation(kind: Quantised, part: str, dtype: torch.dtype) -> PipelineQuantizationConfig:
    """What a pipeline's `from_pretrained` is told.

    Args:
        kind: LLM.int8() (arXiv 2208.07339), or QLoRA's NF4 (arXiv 2305.14314) with its scales quantised too.
        part: What the pipeline calls its denoiser.
        dtype: That layers compute in.
    """
    if kind == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return PipelineQuantizationConfig(quant_mapping={part: config})


def check_quantised(config: PolicyConfig, device: torch.device) -> None:
    """Refuse to quantise what is trained, or where the library for it is not.

    Raises:
        ValueError: In one sentence.
    """
    if config.quantise is None:
        return
    name = f"policy.quantise={config.quantise}"
    if config.train == "full":
        raise ValueError(f"{name} is for frozen weights, but policy.train=full trains them; set policy.quantise=null.")
    check_bitsandbytes(name, device, "policy.quantise=null")
