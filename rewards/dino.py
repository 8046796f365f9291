"""Image features of DINO, for diversity and distance in a network that learned from pictures without their texts.

They are the class token of DINO (Caron et al., arXiv 2104.14294), DINOv2 (Oquab et al., 2304.07193) or DINOv3 (Simeoni
et al., 2508.10104), after the last norm. That of DINO ViT-S/16 is what DreamBooth's DINO score compares (Ruiz et al.,
2208.12242).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig

from rewards.chunked import ChunkedReward
from rewards.loading import load_network
from rewards.preprocessing import IMAGENET_MEAN, IMAGENET_STD, normalise, short_side_crop

# As transformers calls them; the first DINO is a plain ViT.
TYPES = ("vit", "dinov2", "dinov2_with_registers", "dinov3_vit")
# What the authors' own evaluations of all three resize to and cut out, with the filter of CLIP.
RESIZED, CROPPED = 256, 224


class Dino(ChunkedReward):
    """Image features of a DINO, which was shown no texts; it has no score (NaN), so its weight is 0.

    Args:
        model: Folder or hub name of a DINO, DINOv2 or DINOv3 ViT in transformers' format.
        batch_size: Images that go through the model at once.
        device: Such as `cpu` or `cuda`; `auto` takes a GPU if there is one.

    Raises:
        FileNotFoundError: If there is no such model, or the hub does not give it.
        ValueError: If it is another one, or its checkpoint lacks a parameter or has others.
    """

    features_only = True
    parameters = 86_580_480

    def __init__(self, model: str = "facebook/dinov2-base", batch_size: int = 16, device: str = "auto") -> None:
        super().__init__(batch_size, device)
        how: dict[str, Any] = {"add_pooling_layer": False} if _type(model) == "vit" else {}  # which no DINO has
        # Any, because transformers' types do not know a loaded configuration.
        self.network: Any = load_network(AutoModel, model, "DINO", **how).to(self.device)

    def embed(self, images: Tensor) -> Tensor:
        """Unit vectors `(B, D)` float32 of images `(B, 3, H, W)` in [0, 1], of which the central square is seen."""
        return torch.cat([self._features(part) for part in images.split(self._batch_size)]).to(images.device)

    def score_chunk(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.full((len(images),), torch.nan)

    def _features(self, images: Tensor) -> Tensor:
        seen = short_side_crop(images.to(self.device), RESIZED, CROPPED)
        pixels = normalise(seen, IMAGENET_MEAN, IMAGENET_STD)
        return F.normalize(self.network(pixel_values=pixels).last_hidden_state[:, 0], dim=-1)


def _type(model: str) -> str:
    try:
        # Not by AutoConfig, which refuses the types that it does not know before they can be told.
        kind = str(PreTrainedConfig.get_config_dict(model)[0]["model_type"])
    except (OSError, ValueError, KeyError) as error:
        reason = "its config.json has no model_type" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise FileNotFoundError(
            f"There is no DINO model {model!r}: neither a folder nor the hub gives one ({reason.rstrip('.')}); set the "
            "reward's options.model to a folder that holds one, or log in to the hub where it has to know who asks."
        ) from error
    if kind not in TYPES:
        raise ValueError(
            f"The model {model!r} (options.model) is no DINO: its config.json says {kind!r}, and those of DINO are "
            f"{', '.join(TYPES)}."
        )
    return kind
