"""CLIP score: how well picture and prompt agree (Hessel et al., arXiv 2104.08718), without its factor and its floor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rewards.clip_reward import ClipReward


class ClipScore(ClipReward):
    """Cosine of CLIP's features of picture and prompt; pictures of their prompts have 0.15 to 0.35.

    Args:
        model: Folder or hub name of a CLIP model.
        options: `batch_size`, `device` and `dtype`, as in `ClipReward`.
    """

    parameters = 427_616_513

    def __init__(self, model: str = "openai/clip-vit-large-patch14", **options: Any) -> None:
        super().__init__(model, **options)

    def score_chunk(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.agreement(images, prompts)
