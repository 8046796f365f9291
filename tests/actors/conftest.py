"""What the tests of the policy and its rollouts share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from actors.policy import Policy


@pytest.fixture
def nudge() -> Callable[[Policy], None]:
    """Moves a policy's adapter away from where it is, as training would."""
    generator = torch.Generator().manual_seed(0)

    @torch.no_grad()
    def move(policy: Policy, size: float = 0.3) -> None:
        for parameter in policy.parameters:
            parameter += size * torch.randn(parameter.shape, generator=generator)

    return move
