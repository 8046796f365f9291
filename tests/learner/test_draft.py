"""DRaFT: how far back the gradient goes, on chains with noise and without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from actors.config import PolicyConfig
from actors.noise_levels import NoiseLevels
from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from actors.transitions import make_transitions
from learner.batch import collate
from learner.learner import Learner, LearnerConfig
from learner.likelihood import largest_log_ratio
from learner.objectives.alignprop import AlignPropConfig
from learner.objectives.draft import DRaFTConfig
from learner.objectives.draft_lv import DRaFTLVConfig
from learner.objectives.drtune import DRTuneConfig
from learner.objectives.objective import Plan
from tests.learner.rank_process import Curved
from tests.support.linear_chain import gradient_in_theta


@pytest.mark.parametrize(("steps", "expected"), [(1, 0.38), (2, 0.65), (3, 0.821), (7, 0.821), (None, 0.821)])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_gradient_of_a_chain_of_three_steps_by_hand(steps: int, expected: float, checkpointing: bool) -> None:
    found = gradient_in_theta(DRaFTConfig(steps=steps, checkpointing=checkpointing).build())
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_one_state_of_each_chain_is_kept() -> None:
    chain: Any = type("Chain", (), {"first_step": 2, "adapted_steps": 12})()
    assert DRaFTConfig().build().plan(chain) == Plan((11,))
    assert DRaFTConfig(steps=4).build().plan(chain) == Plan((8,))
    assert DRaFTConfig(steps=None).build().plan(chain) == DRaFTConfig(steps=11).build().plan(chain) == Plan((2,))


@pytest.mark.parametrize("solver", ["dpm_2m", "sde_dpm_2m"])
def test_a_chain_that_looks_back_cannot_begin_within(solver: str) -> None:
    sigma = torch.tensor([1.0, 0.8, 0.5, 0.2, 0.0], dtype=torch.float64)
    chain = make_transitions(NoiseLevels(1000 * sigma[:-1].float(), 1 - sigma, sigma, "velocity"), solver)
    for config in (DRaFTConfig(), AlignPropConfig(), DRTuneConfig()):
        with pytest.raises(ValueError, match=rf"second order .* as {config.name} has it do; set policy\.solver to"):
            config.asks.check(config.name, chain)
    DRaFTLVConfig().asks.check("draft_lv", chain)


def test_a_chain_without_noise_is_trained(policy_config: PolicyConfig, nudge: Callable[[Policy], None]) -> None:
    """Its stored states have no density, so there is no ratio to be checked, and the same image comes out again."""
    policy = Policy.load(policy_config.model_copy(update={"eta": 0.0}))
    learner = Learner(LearnerConfig(lr=1e-2), policy, DRaFTConfig(steps=2).build(), reward=Curved())
    nudge(policy)
    request = Request(0, 0, ("a star",) * 4, (0,) * 4, (0, 1, 2, 3), (3,), clean=True)
    batch = collate([rollout(policy, request)[1]], np.zeros(4, np.float32))
    assert not batch.log_probs.any()
    assert largest_log_ratio(policy, batch, 4) == 0
    before = policy.weights()[0].copy()
    assert learner.step(batch).metrics["updates"] == 1
    assert not np.array_equal(before, policy.weights()[0])
