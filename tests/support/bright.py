"""A batch in which a small network can learn what is preferred."""

from __future__ import annotations

from dataclasses import replace

import torch

from actors.policy import Policy
from learner.batch import Batch


def bright_and_dark(policy: Policy, batch: Batch) -> Batch:
    """Bright pictures are good and dark ones bad."""
    good = torch.tensor([1.0, -1, 1, -1, 1, -1])
    drawn = torch.randn(6, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    return replace(batch, clean=0.3 * drawn + good.view(-1, 1, 1, 1), rewards=good)
