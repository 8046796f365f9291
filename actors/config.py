"""The policy's settings: which model, where, and how it samples."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, Field, field_validator

from actors.devices import DtypeName, parse_device, pick_dtype

Quantised = Literal["int8", "nf4"]
MOST_WINDOWS = 64  # of a prompt: some thousand words
_EMBEDDED = ("shapes", "shapes_flow", "shapes_second")  # names, whatever folders there are


class PolicyConfig(BaseModel, frozen=True, extra="forbid"):
    """The model that is trained and how it samples."""

    model: str = Field(
        "shapes",
        description="Folder or hub name of a diffusers pipeline; 'shapes' is the embedded one, 'shapes_flow' its twin "
        "of flow matching, 'shapes_second' that of the second embedded world.",
    )
    variant: str | None = Field(
        None,
        min_length=1,
        description="Which of the model's sets of weights, such as fp16; null: the one without a name.",
    )
    train: Literal["lora", "full"] = Field(
        "lora",
        description="What of the denoiser is trained: an adapter, or all weights in float32, which is for small "
        "networks, as memory, optimizer and every publication are then as large as the network.",
    )
    init_weights: str | None = Field(
        None,
        description="Start full fine-tuning from these weights of the denoiser, a folder that its save_pretrained "
        "wrote, such as 'denoiser' in a checkpoint; null: the model's own.",
    )
    init_lora: str | None = Field(
        None,
        description="Start from this adapter of the denoiser, a safetensors file, a folder with one (such as a "
        "checkpoint) or a hub name; null: a fresh one, which changes nothing.",
    )
    dtype: DtypeName = Field(
        "auto", description="Number format of the frozen base weights; auto is bfloat16 on a GPU, else float32."
    )
    quantise: Quantised | None = Field(
        None,
        description="Keep the denoiser's frozen linear layers in 8 bits (int8, LLM.int8()) or 4 (nf4, QLoRA's); needs "
        "a GPU and bitsandbytes. null: in policy.dtype.",
    )
    device: str = Field("auto", description="A torch device; 'auto' is cuda where there is one, else cpu.")
    encoders: Literal["device", "cpu"] = Field(
        "device",
        description="Where the text encoders are: with the other networks, or on the CPU, which keeps them out of a "
        "GPU's memory; a prompt is encoded once and its embedding kept.",
    )
    vae_slicing: bool = Field(False, description="Decode one picture at a time, which needs less memory.")
    vae_tiling: bool = Field(
        False,
        description="Decode large pictures in tiles that overlap, which needs less memory and blends their seams.",
    )
    checkpointing: bool = Field(
        False,
        description="Compute what lies within the blocks of denoiser and decoder again on the way back instead of "
        "keeping it: less memory for about a third more time, and the same gradients.",
    )
    compile: bool = Field(
        False,
        description="Compile the denoiser with torch.compile, block by block where its blocks repeat: faster passes "
        "after first ones that take minutes; needs a C++ compiler on a CPU and Triton on a GPU.",
    )
    steps: int = Field(50, ge=1, description="Denoising steps of a rollout; 50 are DDPO's and diffusers'.")
    guidance: float = Field(
        5.0,
        ge=0,
        le=1000,
        description="Classifier-free guidance scale, DDPO's by default; at most 1 is no guidance, as in diffusers.",
    )
    guidance_rescale: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How much of the guided prediction's spread is brought back to that of the unguided one; models of "
        "zero terminal SNR were published with 0.7.",
    )
    negative_prompt: str | None = Field(
        None, description="What guidance leads away from; null is what the model's pipeline does without one."
    )
    prompt_windows: int = Field(
        1,
        ge=1,
        le=MOST_WINDOWS,
        description="How many windows of its text encoder (77 tokens of CLIP's) the model is told of each prompt; what "
        "does not fit is refused, never cut. Stable Diffusion 3 and FLUX are told all by T5, the beginning by CLIP.",
    )
    height: int | None = Field(
        None, ge=1, le=32_768, description="Height of the pictures in pixels; null is the model's own."
    )
    width: int | None = Field(
        None, ge=1, le=32_768, description="Width of the pictures in pixels; null is the model's own."
    )
    solver: Literal["ddim", "ddpm", "dpm_2m", "sde_dpm_2m", "flow_sde", "dance_sde", "cps"] = Field(
        "ddim",
        description="How the chain steps: ddim, ddpm (ddim with eta=1), dpm_2m and sde_dpm_2m (DPM-Solver++ of second "
        "order), flow_sde (Flow-GRPO's), dance_sde (DanceGRPO's) or cps (Flow-CPS's); each on any model.",
    )
    eta: float | None = Field(
        None,
        ge=0,
        description="Amount of noise, for ddim and cps up to 1, for flow_sde up to sqrt(2); null is the solver's own: "
        "1 for ddim (DDPO's), 0.7 for flow_sde, 0.3 for dance_sde and 0.8 for cps, as published; the others have none.",
    )
    noisy_steps: tuple[int, int] | None = Field(
        None,
        description="Steps that may add noise, from the first to before the second number, counted from 0; the others "
        "follow the probability-flow ODE, as MixGRPO's. null: all.",
    )
    adapted_steps: Annotated[int, Field(ge=1)] | Literal["auto"] | None = Field(
        None,
        description="In how many first steps of the chain the adapter acts and is trained; the others are the "
        "pretrained model's. auto leaves out the last ones, from the first on that has more than a quarter of the "
        "chain's KL weight. null: all, as where an exported adapter acts.",
    )
    spacing: Literal["leading", "linspace", "trailing"] | None = Field(
        None, description="Which of the training timesteps are visited; null is what the model's scheduler says."
    )
    shift: float | None = Field(
        None, gt=0, description="Shift of a flow model's noise levels towards noise; null is the model's own."
    )
    final_sigma: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Noise that is left in the latents at the chain's end, for objectives that need a density there "
        "(Stable Diffusion 1.5 leaves 0.03); null is what the model's scheduler says, which is none for most.",
    )
    lora_rank: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Rank of the adapter; null is that of init_lora, or else 4, which is DDPO's and diffusers'.",
    )
    lora_alpha: int | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="The adapter's output is scaled by lora_alpha / lora_rank; null is init_lora's, or 4.",
    )
    lora_targets: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="Names of the denoiser's linear and convolutional layers that are adapted; null is those of "
        "init_lora, or to_q, to_k, to_v and to_out.0, the projections of attention.",
    )

    @field_validator("model", "init_lora", "init_weights")
    @classmethod
    def _absolute(cls, name: str | None) -> str | None:
        path = Path(os.path.expanduser(name or ""))
        return str(path.absolute()) if name and name not in _EMBEDDED and os.path.exists(path) else name

    @field_validator("device")
    @classmethod
    def _known_device(cls, device: str) -> str:
        parse_device(device)
        return device

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """The number format of the networks on a device: float32 where all weights are trained."""
        return pick_dtype("float32" if self.train == "full" else self.dtype, device)
