"""LAION's aesthetic score: what people would give a picture from 1 to 10, whatever the prompt.

An affine function of CLIP's image feature, stored as five linear layers without a nonlinearity
(https://github.com/christophschuhmann/improved-aesthetic-predictor).
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rewards.clip_reward import ClipReward

_PUBLISHED = (
    "https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/sac+logos+ava1-l14-linearMSE.pth"
)


class Aesthetic(ClipReward):
    """About 1 to 10; Stable Diffusion's pictures have 5 to 6.

    Args:
        checkpoint: File of the head, or an address that torch.hub can download and keep.
        model: Folder or hub name of CLIP ViT-L/14, on whose features the head was trained.
        options: `batch_size`, `device` and `dtype`, as in `ClipReward`.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it is not that of a `Head`, or the CLIP model's features do not have 768 dimensions.
    """

    parameters = 428_000_000

    def __init__(
        self, checkpoint: str = _PUBLISHED, model: str = "openai/clip-vit-large-patch14", **options: Any
    ) -> None:
        super().__init__(model, **options)
        if (width := self.clip.config.projection_dim) != Head.WIDTH:
            raise ValueError(
                f"The aesthetic score was trained on features of {Head.WIDTH} dimensions, and those of {model!r} "
                f"(options.model) have {width}; use CLIP ViT-L/14."
            )
        self.head = _load_head(checkpoint).to(self.device)

    def score_chunk(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.head(self.image_features(images))


class Head(nn.Module):
    """Scores `(B,)` of unit vectors `(B, 768)`; the dropout is that of the training."""

    WIDTH = 768

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(self.WIDTH, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2),
            nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1),
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features).squeeze(-1)


def _load_head(checkpoint: str) -> Head:
    how: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        if checkpoint.startswith("https://"):
            state = torch.hub.load_state_dict_from_url(checkpoint, progress=False, **how)
        else:
            state = torch.load(Path(checkpoint), **how)
    except OSError as error:
        raise FileNotFoundError(
            f"There is no aesthetic head at {checkpoint} ({error}); set the reward's options.checkpoint to a copy of "
            f"{_PUBLISHED}."
        ) from error
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{checkpoint} (options.checkpoint) is not a file of tensors that torch can load.") from error
    head = Head()
    try:
        head.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{checkpoint} (options.checkpoint) is not an aesthetic head: {reason}") from error
    return head.eval().requires_grad_(False)
