"""`python probe_server.py ...` is `python -m rewards.serve ...` with one reward more, `probe`, that tests can steer."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from rewards import REWARDS
from rewards.reward import Reward
from rewards.serve import main


class Probe(Reward):
    """1000 times the mean of the image, plus the length of its prompt.

    Each call appends its number of images to `log`, and waits while there is a file `hold`. The prompt `raise` raises,
    and `nan` cannot be judged.
    """

    differentiable = True

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        with (self._folder / "log").open("a") as log:
            log.write(f"{len(images)}\n")
        while (self._folder / "hold").exists():
            time.sleep(0.01)
        if "raise" in prompts:
            raise ValueError("cannot\njudge this")
        lengths = torch.tensor([float("nan") if prompt == "nan" else float(len(prompt)) for prompt in prompts])
        return 1000 * images.mean(dim=(1, 2, 3)) + lengths

    def embed(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, :5]


REWARDS["probe"] = "__main__:Probe"

if __name__ == "__main__":
    sys.exit(main())
