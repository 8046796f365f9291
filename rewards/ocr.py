"""Whether a picture shows the words that its prompt quotes: the OCR reward of Flow-GRPO (Liu et al., arXiv 2505.05470).

The formula is that of `flow_grpo/ocr.py` in github.com/yifan123/flow_grpo. The reader is RapidOCR, which runs
PaddleOCR's networks without Paddle; they are newer than those that Flow-GRPO read with, so a picture's score may
differ from theirs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rewards.reward import Reward, to_pixels

_QUOTED = re.compile(r'"([^"]*)"')


class Ocr(Reward):
    """1 - min(d, n) / n, with n the length of the quoted words and d their edit distance to what is read.

    Both are compared in lower case and without spaces; d is 0 where the quoted words stand anywhere in what is read.
    Lines are read from top to bottom and joined, those of a confidence below 0.5 left out as PaddleOCR does. NaN for a
    prompt that quotes nothing.
    """

    environment = "ocr"
    parameters = 7_800_000

    def __init__(self) -> None:
        from rapidfuzz.distance import Levenshtein
        from rapidocr import RapidOCR

        self._distance = Levenshtein.distance
        self._reader = RapidOCR(
            params={
                "Global.use_cls": False,  # words that stand on their heads are not turned, as in Flow-GRPO
                "Global.log_level": "error",  # it warns of every picture without words
                "Det.limit_type": "max",  # PaddleOCR's own size; RapidOCR's enlarges pictures to twice the work
                "Det.limit_side_len": 960,
                "EngineConfig.onnxruntime.intra_op_num_threads": torch.get_num_threads(),  # by itself it takes all
            }
        )

    @classmethod
    def check_prompt(cls, prompt: str) -> None:
        if target(prompt) is None:
            raise ValueError('it quotes no words to be read; put them between straight double quotes: a "stop" sign')

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([self._score(image, p) for image, p in zip(to_pixels(images), prompts, strict=True)])

    def _score(self, pixels: np.ndarray, prompt: str) -> float:
        wanted = target(prompt)
        if wanted is None:
            return float("nan")
        found = _plain(self._read(pixels))
        distance = 0 if wanted in found else self._distance(found, wanted)
        return 1 - min(distance, len(wanted)) / len(wanted)

    def _read(self, pixels: np.ndarray) -> str:
        lines = self._reader(np.ascontiguousarray(pixels[..., ::-1]))  # blue first
        return "".join(lines.txts or ())


def target(prompt: str) -> str | None:
    """The first words between double quotes, in lower case and without spaces; `None` if there are none."""
    quoted = _QUOTED.search(prompt)
    return (_plain(quoted[1]) or None) if quoted else None


def _plain(text: str) -> str:
    return text.replace(" ", "").lower()
