"""DRaFT-LV: images noised again, each noise its own, and their mean less noisy than one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from actors.noise_levels import NoiseLevels
from actors.policy import Policy
from actors.transitions import make_transitions
from learner.batch import Batch
from learner.forward_process import noised
from learner.objectives.draft_lv import DRaFTLVConfig
from learner.objectives.objective import Plan
from tests.learner.rank_process import Curved


@pytest.fixture
def batch(policy: Policy, draw: Callable[..., Batch]) -> Batch:
    drawn = draw(policy, steps=(4,))
    return replace(drawn, clean=drawn.next_latents[:, 0])


def test_it_keeps_images_alone_and_any_solver_may_draw_them(policy: Policy) -> None:
    assert DRaFTLVConfig().build().plan(policy.transitions) == Plan((), clean=True)
    sigma = torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64)
    chain = make_transitions(NoiseLevels(1000 * sigma[:-1].float(), 1 - sigma, sigma, "velocity"), "dpm_2m")
    DRaFTLVConfig().asks.check("draft_lv", chain)


@pytest.mark.parametrize(("level", "step"), [(1, 4), (3, 2), (99, 0)])
def test_images_are_noised_to_a_state_counted_from_the_end(policy: Policy, batch: Batch, level: int, step: int) -> None:
    objective = DRaFTLVConfig(level=level, noises=3).build()
    objective.attach(policy, Curved())
    (part,) = objective.parts(batch, torch.Generator())
    assert part.columns.tolist() == [[step] * 3] * 6
    policy.transitions = replace(policy.transitions, first_step=3)
    objective.attach(policy, Curved())
    assert next(iter(objective.parts(batch, torch.Generator()))).columns.unique().tolist() == [max(3, step)]


def test_noises_differ_from_each_other_and_from_nothing_else(policy: Policy, batch: Batch) -> None:
    """A sample's noise is the same in every company, so in every micro-batch and on every rank."""
    rows, steps = torch.tensor([0, 0, 1]), torch.full((3,), 4)
    together = noised(policy, batch, rows, steps, torch.tensor([0, 1, 1])).x
    assert not torch.equal(together[0], together[1])
    assert torch.equal(noised(policy, batch, rows[1:2], steps[:1], 1).x, together[1:2])
    assert torch.equal(noised(policy, batch, rows, steps, 1).x[2], together[2])


def test_the_mean_of_more_noises_has_less_variance(
    policy: Policy, batch: Batch, nudge: Callable[[Policy], None]
) -> None:
    nudge(policy)

    def gradient(noises: int, iteration: int) -> torch.Tensor:
        assert batch.keys is not None
        keys = batch.keys.copy()
        keys[:, 1] = iteration  # other noise on the same images
        objective: Any = DRaFTLVConfig(noises=noises, level=3).build()
        objective.attach(policy, Curved())
        (part,) = objective.parts(replace(batch, keys=keys), torch.Generator())
        for parameter in policy.parameters:
            parameter.grad = None
        objective.backward(policy, replace(batch, keys=keys), part, 99)
        return torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None])

    one, four = (torch.stack([gradient(n, i) for i in range(6)]).var(dim=0).mean() for n in (1, 4))
    assert 2 < float(one / four) < 8
