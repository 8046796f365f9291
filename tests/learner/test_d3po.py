"""D3PO: its clamp, its ties, its order, and where it is PPOD."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from learner.batch import Batch
from learner.likelihood import Likelihoods
from learner.objectives import ObjectiveConfig
from learner.objectives.d3po import D3POConfig, d3po_loss
from learner.objectives.objective import Plan
from learner.objectives.ppod import PPODConfig, preference_objective


def loss(g: Tensor, rewards: list[float], groups: list[int]) -> Tensor:
    """D3PO's loss of these log-ratios to the pretrained model."""
    zeros = torch.zeros_like(g)
    likelihoods = Likelihoods(g, zeros, zeros, zeros)
    return d3po_loss(D3POConfig(), likelihoods, torch.tensor(rewards), torch.tensor(groups))[0]


def test_a_tie_is_ln_2_without_gradient() -> None:
    """Structural: labels (0, 0), however far the policy has moved."""
    g = torch.tensor([[0.05, -0.3], [-0.02, 0.4]], requires_grad=True)
    value = loss(g, [1.0, 1.0], [0, 0])
    value.backward()
    assert value.item() == pytest.approx(math.log(2))
    assert g.grad is not None
    assert g.grad.abs().max() == 0


def test_a_tie_counts_in_the_mean() -> None:
    g = 0.05 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    decided = loss(g[:2], [2.0, 1.0], [0, 0])
    both = loss(g, [2.0, 1.0, 5.0, 5.0], [0, 0, 1, 1])
    assert both.item() == pytest.approx((decided.item() + math.log(2)) / 2)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_clamp_bounds_the_logit(sign: float) -> None:
    """By 0.1 (ln 1.1 - ln 0.9), and beyond it there is no gradient on either side."""
    g = torch.tensor([[sign * 50.0], [-sign * 50.0]], requires_grad=True)
    value = loss(g, [1.0, 0.0], [0, 0])
    value.backward()
    assert value.item() == pytest.approx(math.log1p(math.exp(-sign * 0.1 * math.log(1.1 / 0.9))), abs=1e-6)
    assert g.grad is not None
    assert g.grad.abs().max() == 0


def test_neighbours_meet_once() -> None:
    """Two chains a prompt; a third and fourth are a pair of their own."""
    g = torch.tensor([[0.01], [0.02], [0.03], [-0.04]])
    expected = [math.log1p(math.exp(-0.1 * margin)) for margin in (0.01 - 0.02, -0.04 - 0.03)]
    assert loss(g, [1.0, 0.0, 2.0, 3.0], [0, 0, 0, 0]).item() == pytest.approx(sum(expected) / 2, abs=1e-7)


def test_it_is_ppod_with_a_hard_clip_neighbours_and_ties() -> None:
    generator = torch.Generator().manual_seed(0)
    log_probs, reference = torch.randn(2, 12, 5, generator=generator) * 0.1
    found = []
    for settings in (D3POConfig(), PPODConfig(beta=0.1, clip="hard", clip_range=0.1, pairs="consecutive", ties="keep")):
        g = log_probs.clone().requires_grad_()
        likelihoods = Likelihoods(g, reference + 0.01, reference, torch.zeros_like(g))
        rewards = torch.tensor([1.0, 1.0, float("nan")] + [float(i % 5) for i in range(9)])
        loss = d3po_loss if isinstance(settings, D3POConfig) else preference_objective
        value, metrics = loss(settings, likelihoods, rewards, torch.arange(12) // 4)
        value.backward()
        found.append((value.item(), g.grad, {name: metrics[name] for name in ("pairs", "margin/std", "clip/winner")}))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


def test_an_update_sees_one_prompt_at_all_of_its_steps() -> None:
    nothing, groups = torch.empty(0), torch.tensor([0, 1, 2, 0, 1, 2])
    batch = Batch(nothing, nothing, nothing, torch.arange(5), ("",) * 6, groups, torch.zeros(6), 0)
    objective = D3POConfig().build()
    parts = list(objective.parts(batch, torch.Generator().manual_seed(0)))
    assert sorted(part.samples.tolist() for part in parts) == [[0, 3], [1, 4], [2, 5]]
    assert all(sorted(part.columns.tolist()) == [0, 1, 2, 3, 4] for part in parts)
    chain: Any = SimpleNamespace(trainable_steps=(0, 1, 2, 3, 4))
    assert objective.plan(chain) == Plan((0, 1, 2, 3, 4), share_init_noise=True)


def test_a_config_names_its_algorithm() -> None:
    adapter: TypeAdapter[PPODConfig] = TypeAdapter(ObjectiveConfig)
    assert type(adapter.validate_python({"name": "d3po"})) is D3POConfig
    assert type(adapter.validate_python({"name": "ppod"})) is PPODConfig
    with pytest.raises(ValidationError, match="d3p0"):
        adapter.validate_python({"name": "d3p0"})
