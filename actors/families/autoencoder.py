"""Pictures and latents: an AutoencoderKL with the scale, and where there are any the moments, that its config says."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from actors import half_precision


class Autoencoder:
    """A frozen autoencoder.

    Args:
        network: Its numbers may be of any format; pictures and latents outside are float32.
        device: Where it is moved when it is first used, which by most learners it never is.
    """

    def __init__(self, network: AutoencoderKL, device: torch.device) -> None:
        self._given, self._device, config = network, device, network.config
        known = config.latents_mean is not None and config.latents_std is not None
        mean, std = (config.latents_mean, config.latents_std) if known else ([config.shift_factor or 0.0], [1.0])
        self._mean, self._std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (mean, std))

    @cached_property
    def _network(self) -> AutoencoderKL:
        # Convolutions on CPUs and tensor cores are markedly faster in this layout.
        return self._given.to(self._device, memory_format=torch.channels_last)

    def encode(self, images: Tensor) -> Tensor:
        """Latents `(B, C, h, w)` float32 of images `(B, 3, H, W)` in [0, 1]: the mean of what the encoder gives."""
        pixels = (2 * images - 1).to(self._network.dtype, memory_format=torch.channels_last)
        latents = self._network.encode(pixels).latent_dist.mean.float()
        return (latents - self._mean) * self._network.config.scaling_factor / self._std

    def decode(self, latents: Tensor) -> Tensor:
        """Images `(B, 3, H, W)` float32 in [0, 1] of latents; NaN where the decoder gives none."""

        def network(latents: Tensor) -> Tensor:
            scaled = latents * self._std / self._network.config.scaling_factor + self._mean
            return self._network.decode(
                scaled.to(self._network.dtype, memory_format=torch.channels_last)
            ).sample.float()

        if self._network.dtype == torch.float16:
            pictures = half_precision.through(network, latents, ())
        else:
            pictures = network(latents)
        return (pictures / 2 + 0.5).clamp(0, 1)


def pixels_per_latent(network: AutoencoderKL) -> int:
    """Pixels along the side of a picture to one of its latents."""
    return 2 ** (len(network.config.block_out_channels) - 1)


def check_autoencoder(folder: Path, network: AutoencoderKL) -> None:
    """Refuse an autoencoder of something else than pictures, or without a scale.

    Args:
        folder: Of the pipeline.
        network: On the meta device.

    Raises:
        ValueError: In one sentence.
    """
    if (network.config.in_channels, network.config.out_channels) != (3, 3):
        raise ValueError(f"The model {folder} has a VAE that does not decode to pictures of 3 channels.")
    scale = network.config.scaling_factor
    if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale == 0:
        raise ValueError(
            f"The model {folder} has a VAE whose scaling_factor is {scale!r}, which latents cannot be divided by; look "
            "at its vae/config.json."
        )
    for name in ("latents_mean", "latents_std"):
        moments = network.config[name]
        if moments is not None and len(moments) != network.config.latent_channels:
            raise ValueError(
                f"The model {folder} has a VAE whose {name} has {len(moments)} numbers for latents of "
                f"{network.config.latent_channels} channels; look at its vae/config.json."
            )
