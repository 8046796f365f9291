"""Two passes over what a loss couples: what has no gradient is computed in the first alone, and to the same bits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor

from actors.config import PolicyConfig
from actors.policy import Policy
from learner.batch import Batch
from learner.coupled import backward_coupled
from learner.likelihood import REFERENCE_ADAPTER, Likelihoods, Reference, backward
from learner.objectives import ObjectiveConfig
from learner.ode_likelihood import backward_ode
from learner.ranks import ALONE, Ranks
from tests.learner.rank_process import CASES, Start, begun

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


MODULES = ("likelihood", "ode_likelihood", "objectives.dgpo", "objectives.kto")  # of `learner`, which call it
COUPLED = {case: settings for case, settings in CASES.items() if settings["name"] in ("ppod", "d3po", "dgpo", "kto")}


def test_these_are_all_whose_loss_couples_what_it_is_of() -> None:
    ours = {name.removeprefix("learner."): vars(sys.modules[name]) for name in sys.modules if name[:8] == "learner."}

    def having(*functions: Callable[..., Any]) -> set[str]:
        known = {id(function) for function in functions}
        return {name for name, values in ours.items() if not known.isdisjoint(map(id, values.values()))}

    assert having(backward_coupled) == {"coupled", *MODULES}
    objectives = {name for name in having(backward_coupled, backward, backward_ode) if name.startswith("objectives.")}
    assert objectives == {f"objectives.{settings['name']}" for settings in COUPLED.values()}


@pytest.mark.parametrize("case", COUPLED)
def test_no_objective_computes_again_what_has_no_gradient(
    start: Start, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second pass nobody acts but the policy, and the gradient is that of everything computed again."""
    made, policy = start.learner(case), start.policy
    batch, part = begun(made, policy)
    seen = [0, 0]  # items of the first pass and of the second

    def refuse(adapter: str | None) -> None:
        raise AssertionError(f"{adapter} acts again")

    def watching(items: int, values: int, evaluate: Any, loss: Any, **settings: Any) -> dict[str, float]:
        def watched(piece: Tensor, again: bool) -> Sequence[Tensor]:
            seen[again] += len(piece)
            with monkeypatch.context() as patch:
                if again:
                    patch.setattr(policy, "using", refuse)
                return evaluate(piece, again)

        return backward_coupled(items, values, watched, loss, **settings)

    def gradient(instead: Callable[..., dict[str, float]]) -> Tensor:
        for module in MODULES:
            monkeypatch.setattr(f"learner.{module}.backward_coupled", instead)
        return spent(policy, lambda: made._objective.backward(policy, batch, part, 5))[0]

    found = gradient(watching)
    assert seen[0] == seen[1] > 0
    assert torch.equal(found, gradient(recomputing))


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"name": "ppod"}, 2 * 3 * 5),
        ({"name": "ppod", "steps_per_update": 3}, 2 * 3 * 3),
        ({"name": "ppod", "prompts_per_update": 1, "step_fraction": 0.5}, 3 * 2),
        ({"name": "ppod", "kl_weight": 0.0}, 0),
        ({"name": "d3po"}, 0),
        ({"name": "dgpo", "states": 2}, 2 * 3 * 2),
        ({"name": "dgpo", "states": 9, "prompts_per_update": 1, "step_fraction": 0.6}, 3 * 3),
        ({"name": "kto"}, 0),
    ],
    ids=str,
)
def test_an_objective_says_how_many_latents_an_update_keeps(
    policy: Policy, draw: Callable[..., Batch], settings: dict[str, Any], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = TypeAdapter(ObjectiveConfig).validate_python(settings).build()
    objective.attach(policy, None)
    plan = objective.plan(policy.transitions)
    if plan.trails:
        policy.snapshot(plan.acts_with)
    batch = replace(draw(policy, steps=plan.stored_steps or (0,)), clean=torch.randn(6, *policy.latent_shape))
    kept, plain = [0], Tensor.new_empty

    def noting(like: Tensor, *shape: int, **options: Any) -> Tensor:
        if shape[1:] == policy.latent_shape:
            kept.append(shape[0])
        return plain(like, *shape, **options)

    monkeypatch.setattr(Tensor, "new_empty", noting)
    for part in objective.parts(batch, torch.Generator().manual_seed(0)):
        objective.backward(policy, batch, part, 5)
    assert max(kept) == objective.kept_latents(policy.transitions, prompts=2, samples=3) == count
