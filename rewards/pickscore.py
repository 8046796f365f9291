"""PickScore: CLIP ViT-H/14 fine-tuned on people's choices between pictures (Kirstain et al., arXiv 2305.01569)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rewards.clip_reward import ClipReward


class PickScore(ClipReward):
    """exp(logit scale) times the cosine of the features of picture and prompt, about 18 to 24.

    The probability that people prefer one picture to another is the sigmoid of the difference of their scores.

    Args:
        model: Folder or hub name of the model.
        options: `batch_size`, `device` and `dtype`, as in `ClipReward`.
    """

    parameters = 986_109_441

    def __init__(self, model: str = "yuvalkirstain/PickScore_v1", **options: Any) -> None:
        super().__init__(model, **options)

    def score_chunk(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.clip.logit_scale.float().exp() * self.agreement(images, prompts)
