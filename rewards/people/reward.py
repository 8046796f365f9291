"""People as a reward that a run names: what it asks of them. They take their time, so no actor holds it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from rewards.reward import Reward


class People(Reward):
    """The choices of people between the two samples of each prompt of a batch, which waits for them.

    Args:
        pairs: The batch is trained on when people have chosen between so many of its pairs; `None` is all.
        patience: Seconds that it waits at most; then it is trained on the pairs chosen so far, and where there are none
            the run ends, to be continued. `None` waits for ever.

    Raises:
        ValueError: If it is no number of pairs or of seconds; the message has no full stop.
    """

    def __init__(self, *, pairs: int | None = None, patience: float | None = None) -> None:
        if pairs is not None and (type(pairs) is not int or pairs < 1):
            raise ValueError(f"people are asked for at least 1 of the pairs, and not for {pairs!r}")
        if patience is not None and (type(patience) not in (int, float) or not 0 < patience < math.inf):
            raise ValueError(f"people are waited for some seconds, and not for {patience!r}")
        self.pairs, self.patience = pairs, patience

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """NaN: nobody answers at once."""
        return torch.full((len(images),), math.nan)
