"""AlignProp: one truncation for a whole trajectory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from actors.policy import Policy
from learner.batch import Batch
from learner.objectives.alignprop import AlignPropConfig
from learner.objectives.objective import Plan
from tests.support.linear_chain import gradient_in_theta


@pytest.mark.parametrize(("column", "expected"), [(0, 0.821), (1, 0.65), (2, 0.38)])
def test_a_truncation_trains_all_of_the_chains_end(column: int, expected: float) -> None:
    """Drawn anew at each step, as in released code, it would leave out steps in between."""
    found = gradient_in_theta(AlignPropConfig().build(), [[column]])
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_every_sample_draws_its_truncation(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch, generator = draw(policy, steps=(1, 2, 3, 4)), torch.Generator().manual_seed(0)
    parts = [
        part for _ in range(300) for part in AlignPropConfig(least=2, most=4, updates=2).build().parts(batch, generator)
    ]
    columns = torch.stack([part.columns.flatten() for part in parts])
    assert set(columns.flatten().tolist()) == {0, 1, 2}  # which leave 4, 3 and 2 steps
    torch.testing.assert_close(
        columns.flatten().bincount() / columns.numel(), torch.full((3,), 1 / 3), atol=0.04, rtol=0
    )
    assert (columns.diff() >= 0).all()  # neighbours share the network
    assert columns.diff().any()
    assert {int(part.samples[0]) for part in parts} == set(range(6))  # and it is not the sample that decides
    assert set(
        torch.cat([p.columns for p in AlignPropConfig(least=9).build().parts(batch, generator)]).tolist()[0]
    ) == {0}


def test_the_states_that_may_be_begun_from_are_kept() -> None:
    chain: Any = type("Chain", (), {"first_step": 2, "adapted_steps": 6})()
    assert AlignPropConfig().build().plan(chain) == Plan((2, 3, 4, 5))
    assert AlignPropConfig(most=2).build().plan(chain) == Plan((4, 5))
    chain.adapted_steps = 4
    assert AlignPropConfig(most=2).build().plan(chain) == Plan((2, 3))
    with pytest.raises(ValueError, match="most is 1, fewer steps than least, 2"):
        AlignPropConfig(least=2, most=1)
