"""What a policy needs of a model family; everything else of a model is the family's own business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from actors.adapters import AdapterTensors, LoraShape
from actors.conditioning import Conditioning
from actors.config import PolicyConfig
from actors.noise_levels import NoiseLevels


class Family(Protocol):
    """A loaded model of one family: frozen networks, of which one is given adapters.

    Attributes:
        part: What the pipeline calls its denoiser, such as `unet`; keys of adapter files begin with it.
        network: The denoiser, which adapters are added to.
        levels: The states that a chain visits.
        latent_shape: Of one state, such as (C, H, W), of pictures of `config.height` and `config.width`.
        tells_guidance: Whether the network itself is told `config.guidance`, so that one pass is the guided one.
        text_width: Width D of the prompts' embedding `conditioning["text"]` `(B, L, D)`, which companions read.
    """

    part: ClassVar[str]
    network: Any
    levels: NoiseLevels
    latent_shape: tuple[int, ...]
    tells_guidance: bool
    text_width: int

    @classmethod
    def check(cls, folder: Path, config: PolicyConfig) -> nn.Module:
        """Refuse a folder that cannot be loaded whole or driven, by its files' headers alone.

        Returns:
            The denoiser on the meta device, whose layers can be looked at.

        Raises:
            FileNotFoundError: If something is not there.
            ValueError: If the model is damaged or does not fit the config; in one sentence.
        """
        ...

    @classmethod
    def noise_levels(cls, folder: Path, config: PolicyConfig) -> NoiseLevels:
        """The states that a chain visits, of a folder that `check` lets pass.

        Raises:
            ValueError: If its scheduler describes none, or another process.
        """
        ...

    @classmethod
    def load(cls, folder: Path, config: PolicyConfig, device: torch.device, dtype: torch.dtype) -> Family:
        """Load a folder that `check` lets pass; `actors.families.loading.load_pipeline` does it for a pipeline.

        On the meta device it has networks without weights, which `predict` and `decode` run through all the same:
        `actors.footprint` asks them what they would need.
        """
        ...

    @staticmethod
    def read_lora(tensors: Mapping[str, Tensor], network: Any) -> tuple[dict[str, Tensor], dict[str, float]]:
        """An adapter file's tensors in peft's names, each below its part's, and the alpha of each layer that has one.

        Args:
            tensors: Of the file, in any format that diffusers reads.
            network: The denoiser that they are for.

        Raises:
            Exception: Whatever the conversion of another format stumbles over.
        """
        ...

    @staticmethod
    def comfy(tensors: AdapterTensors, shape: LoraShape) -> dict[str, Tensor]:
        """An adapter under the names that ComfyUI reads for this family; `actors/lora_names.py` has them.

        Args:
            tensors: By the parameter's name in the denoiser.
            shape: What the adapter is like.
        """
        ...

    @staticmethod
    def count_windows(folder: Path, prompts: Sequence[str]) -> tuple[list[int], int]:
        """How many windows of the text encoder each prompt fills, and how many tokens are in one.

        What fills more than `config.prompt_windows` is refused before anything starts, and by `condition`.
        """
        ...

    @staticmethod
    def most_windows(folder: Path) -> int:
        """The largest `config.prompt_windows` that the model can be told."""
        ...

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """What the network is told of prompts, each encoded alone.

        Raises:
            ValueError: If one is longer than what is read of it, so that its end would be cut in silence.
        """
        ...

    def uncondition(self, prompt: str | None) -> Conditioning:
        """What guidance leads away from, one row: a negative prompt, or `None` for what the family does without."""
        ...

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's output for states, float32.

        Args:
            x: `(B, *latent_shape)` float32.
            timestep: `(B,)` of `levels`.
            conditioning: Of B samples.
        """
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Latents `(B, *latent_shape)` float32 of images `(B, 3, H, W)` in [0, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` float32 in [0, 1] of latents; NaN where the decoder gives none."""
        ...
