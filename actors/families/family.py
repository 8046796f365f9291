"""What a policy needs of a model family; everything else of a model is the family's own business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from diffusers import SchedulerMixin
from torch import Tensor, nn

from actors.conditioning import Conditioning
from actors.config import PolicyConfig


class Family(Protocol):
    """A loaded model of one family: frozen networks, of which one is given adapters.

    Attributes:
        part: What the pipeline calls its denoiser, such as `unet`; keys of adapter files begin with it.
        network: The denoiser, which adapters are added to.
        scheduler: Describes the chain.
        latent_shape: Of one state, such as (C, H, W).
        text_width: Width D of the prompts' embedding `conditioning["text"]` `(B, L, D)`, which companions read.
    """

    part: ClassVar[str]
    network: Any
    scheduler: SchedulerMixin
    latent_shape: tuple[int, ...]
    text_width: int

    @classmethod
    def check(cls, folder: Path, config: PolicyConfig) -> nn.Module:
        """Refuse a folder that cannot be loaded whole or driven, by its files' headers alone.

        Returns:
            The denoiser on the meta device, for who wants to know its layers.

        Raises:
            FileNotFoundError: If something is not there.
            ValueError: If the model is damaged or does not fit the config; in one sentence.
        """
        ...

    @classmethod
    def load(cls, folder: Path, config: PolicyConfig, device: torch.device, dtype: torch.dtype) -> Family:
        """Load a folder that `check` lets pass."""
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
    def count_cut(folder: Path, prompts: Sequence[str]) -> tuple[int, int]:
        """How many prompts are longer than what the text encoder reads, and how many tokens that is."""
        ...

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """What the network is told of prompts, each encoded alone."""
        ...

    def predict(self, x: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's output for states, float32.

        Args:
            x: `(B, *latent_shape)` float32.
            timestep: `(B,)` training timesteps.
            conditioning: Of B samples.
        """
        ...

    def encode(self, images: Tensor) -> Tensor:
        """Latents `(B, *latent_shape)` float32 of images `(B, 3, H, W)` in [0, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` float32 in [0, 1] of latents; NaN where the decoder gives none."""
        ...
