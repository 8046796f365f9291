"""Pictures and latents: scale and moments as diffusers' pipelines apply them, and what has none is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from actors.families.autoencoder import Autoencoder, check_autoencoder, pixels_per_latent


def make(**changes: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    values = dict(
        block_out_channels=(8, 8), down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
        layers_per_block=1, norm_num_groups=4, sample_size=16, latent_channels=2,
    )  # fmt: skip
    return AutoencoderKL(**values | changes).eval().requires_grad_(False)


@pytest.mark.parametrize(
    ("changes", "mean", "std", "scale"),
    [
        ({}, 0.0, 1.0, 0.18215),
        ({"scaling_factor": 1.5, "shift_factor": 0.06}, 0.06, 1.0, 1.5),
        ({"latents_mean": [0.1, -0.2], "latents_std": [2.0, 0.5]}, (0.1, -0.2), (2.0, 0.5), 0.18215),
    ],
    ids=["scale", "shift", "moments"],
)
def test_latents_are_brought_to_their_scale_and_back(
    changes: dict[str, Any], mean: Any, std: Any, scale: float
) -> None:
    network = make(**changes)
    ours = Autoencoder(network, torch.device("cpu"))
    mean, std = (torch.as_tensor(values).float().view(1, -1, 1, 1) for values in (mean, std))
    images = torch.rand(2, 3, 16, 12)
    given = network.encode(2 * images - 1).latent_dist.mean
    torch.testing.assert_close(ours.encode(images), (given - mean) / std * scale)
    latents = torch.randn(2, 2, 8, 6)
    expected = network.decode(latents / scale * std + mean).sample / 2 + 0.5
    torch.testing.assert_close(ours.decode(latents), expected.clamp(0, 1))
    assert pixels_per_latent(network) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"in_channels": 4}, "does not decode to pictures of 3 channels"),
        ({"scaling_factor": 0}, "scaling_factor is 0"),
        ({"scaling_factor": float("nan")}, "scaling_factor is nan"),
    ],
)
def test_what_is_no_autoencoder_of_pictures_is_refused(changes: dict[str, Any], said: str) -> None:
    check_autoencoder(Path("/model"), make())
    with pytest.raises(ValueError, match=said) as caught:
        check_autoencoder(Path("/model"), make(**changes))
    assert str(caught.value).startswith("The model /model has")
