"""Two passes over what a loss couples: what has no gradient is computed in the first alone, and to the same bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from actors.config import PolicyConfig
from actors.policy import Policy
from learner.batch import Batch
from learner.coupled import backward_coupled
from learner.likelihood import REFERENCE_ADAPTER, Likelihoods, Reference, backward
from learner.ranks import ALONE, Ranks
from tests.learner.rank_process import Start, begun

SAMPLES, STEPS = torch.arange(6), torch.arange(4)
ALL = len(SAMPLES) * len(STEPS)


def recomputing(items: int, values: int, evaluate: Any, loss: Any, **settings: Any) -> dict[str, float]:
    """`backward_coupled` with everything computed again in the second pass."""
    return backward_coupled(items, values, lambda piece, again: evaluate(piece, False), loss, **settings)


class Noting(Ranks):
    """The only rank, which notes the values of all transitions."""

    def sum_(self, values: Tensor) -> Tensor:
        self.values = values.clone()
        return values


class OneOfTwo(Ranks):
    """A rank that is told the values of the other."""

    def __init__(self, rank: int, values: Tensor) -> None:
        super().__init__(rank, 2)
        self._values = values

    def sum_(self, values: Tensor) -> Tensor:
        own = values != 0
        assert 0 < own.sum() < values.numel()
        assert torch.equal(values[own], self._values[own])
        return self._values.clone()


def mixed(these: Likelihoods) -> tuple[Tensor, dict[str, float]]:
    """A loss of ratios and KL that couples all transitions."""
    return 10 * these.log_ratio.sum() ** 2 - these.log_ratio.mean() + 50 * these.kl.mean(), {}


def spent(policy: Policy, run: Callable[[], object]) -> tuple[Tensor, int]:
    """The gradient that a run adds up, as one vector, and its evaluations of the network."""
    for parameter in policy.parameters:
        parameter.grad = None
    before = policy.evaluations
    run()
    found = torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None])
    assert found.norm() > 0
    return found, policy.evaluations - before


@pytest.fixture
def moved(policy: Policy, nudge: Callable[..., None], draw: Callable[..., Batch]) -> tuple[Policy, Batch]:
    """A policy that is neither where the batch was drawn nor at the reference."""
    nudge(policy)
    batch = draw(policy)
    nudge(policy, 0.02)
    policy.snapshot(REFERENCE_ADAPTER)
    nudge(policy, 0.02)
    return policy, batch


@pytest.mark.parametrize("micro_batch", [7, 12])
@pytest.mark.parametrize(("reference", "passes"), [("behaviour", 3), ("pretrained", 3), ("snapshot", 4)])
def test_a_kl_asks_the_pretrained_model_once(
    moved: tuple[Policy, Batch],
    micro_batch: int,
    reference: Reference,
    passes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On one rank, and on each of two; gradients are equal bit for bit."""
    policy, batch = moved

    def run(ranks: Ranks) -> tuple[Tensor, int]:
        settings: Any = {"micro_batch": micro_batch, "reference": reference, "with_kl": True, "ranks": ranks}
        return spent(policy, lambda: backward(policy, batch, SAMPLES, STEPS, mixed, **settings))

    alone = Noting()
    found, evaluations = run(alone)
    shares = [OneOfTwo(rank, alone.values) for rank in range(2)]
    of_two = [run(share)[0] for share in shares]
    monkeypatch.setattr("learner.likelihood.backward_coupled", recomputing)
    expected, before = run(ALONE)
    assert torch.equal(found, expected)
    assert evaluations == passes * ALL * policy.passes
    assert before == 2 * (passes - 1) * ALL * policy.passes
    for share, own in zip(shares, of_two, strict=True):
        assert torch.equal(own, run(share)[0])
        assert not torch.equal(own, found)
    torch.testing.assert_close(sum(of_two), found, rtol=1e-4, atol=1e-6 * float(found.norm()))


@pytest.mark.parametrize(("with_kl", "micro_batch", "passes"), [(False, 7, 2), (True, ALL, 2), (False, ALL, 1)])
def test_without_a_kl_or_in_one_graph_there_is_nothing_to_keep(
    moved: tuple[Policy, Batch], with_kl: bool, micro_batch: int, passes: int
) -> None:
    policy, batch = moved
    loss = mixed if with_kl else lambda these: (these.log_ratio.sum() ** 2, {})
    settings: Any = {"micro_batch": micro_batch, "with_kl": with_kl}
    _, evaluations = spent(policy, lambda: backward(policy, batch, SAMPLES, STEPS, loss, **settings))
    assert evaluations == passes * ALL * policy.passes


@pytest.fixture(scope="module")
def start(tiny_pipeline: Path) -> Start:
    return Start(PolicyConfig(model=str(tiny_pipeline), device="cpu", steps=5, lora_rank=2, lora_alpha=2))


@pytest.mark.parametrize(("case", "passes"), [("ppod, snapshot", 4), ("d3po", 3), ("dgpo", 4), ("kto", 3)])
def test_no_objective_computes_again_what_has_no_gradient(
    start: Start, case: str, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy twice and each reference once; dgpo has two, as has ppod with a snapshot and a KL."""
    made, policy = start.learner(case), start.policy
    batch, part = begun(made, policy)
    found, evaluations = spent(policy, lambda: made._objective.backward(policy, batch, part, 5))
    for module in ("learner.likelihood", "learner.objectives.dgpo", "learner.objectives.kto"):
        monkeypatch.setattr(f"{module}.backward_coupled", recomputing)
    expected, before = spent(policy, lambda: made._objective.backward(policy, batch, part, 5))
    assert torch.equal(found, expected)
    assert evaluations * 2 * (passes - 1) == before * passes
