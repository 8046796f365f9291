"""PPOD: its refusals, how it cuts a batch, and its losses on given likelihoods and on the tiny policy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from actors.policy import Policy
from learner.batch import Batch
from learner.likelihood import REFERENCE_ADAPTER, Likelihoods
from learner.objectives.objective import Part
from learner.objectives.ppod import PPODConfig, preference_objective

Nudge = Callable[..., None]
Draw = Callable[..., Batch]
EVERYTHING = Part(torch.arange(6), torch.arange(4))
REWARDS, GROUPS = torch.tensor([0.3, -1.0, 2.0, 0.1, 0.7, -0.4]), torch.tensor([0, 0, 0, 1, 1, 1])

# One config of every kind; clip ranges that bite on the likelihoods below.
KINDS = [
    {"clip": "none"},
    {"clip": "hard", "loss": "hinge"},
    {"clip": "one_sided", "loss": "ipo"},
    {"clip": "pessimistic", "form": "trajectory"},
    {"clip": "pessimistic", "loss": "soft", "pairs": "best_worst"},
    {"clip": "pessimistic", "pairs": "ranking"},
    {"clip": "hard", "pairs": "ranking", "form": "trajectory"},
]


def make(**settings: Any) -> PPODConfig:
    """A config with all steps and prompts in one optimizer step."""
    return PPODConfig.model_validate({"steps_per_update": None, "beta": 10, "clip_range": 0.1, **settings})


def given_likelihoods(g: Tensor, anchor: Tensor | float = 0.0) -> Likelihoods:
    """Likelihoods with these log-ratios."""
    zeros = torch.zeros_like(g)
    return Likelihoods(log_prob=g, behaviour=zeros + anchor, reference=zeros, kl=zeros)


def scattered() -> Likelihoods:
    """Six samples at four steps, log-ratios and anchors about as wide as the clip."""
    g, anchor = 0.15 * torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    return given_likelihoods(g.requires_grad_(), anchor)


def rows(these: Likelihoods, order: Tensor, columns: Tensor | None = None) -> Likelihoods:
    """A selection of samples and steps."""
    columns = torch.arange(these.kl.shape[1]) if columns is None else columns
    fields = ("log_prob", "behaviour", "reference", "kl")
    return Likelihoods(**{field: getattr(these, field)[order][:, columns] for field in fields})


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"form": "trajectory", "steps_per_update": 1}, "steps_per_update=null"),
        ({"pairs": "ranking", "loss": "hinge"}, "Plackett-Luce"),
        ({"pairs": "ranking", "clip": "one_sided"}, "Plackett-Luce"),
        ({"clip_range": 1.0}, "clip_range"),
        ({"beta": 0}, "beta"),
        ({"step_fraction": 0}, "step_fraction"),
        ({"kl_wieght": 0.1}, "kl_wieght"),
    ],
)
def test_a_config_that_cannot_work_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        PPODConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("fraction", "expected"), [(1.0, (0, 1, 2, 3, 5)), (0.6, (0, 1, 2)), (0.2, (0,)), (0.01, (0,))]
)
def test_the_noisy_end_is_trained(fraction: float, expected: tuple[int, ...]) -> None:
    chain: Any = SimpleNamespace(trainable_steps=(0, 1, 2, 3, 5))
    assert make(step_fraction=fraction).build().plan(chain).stored_steps == expected


def empty_batch(groups: list[int], steps: int) -> Batch:
    """A batch of which only the shape matters."""
    nothing, size = torch.empty(0), len(groups)
    return Batch(
        nothing, nothing, nothing, torch.arange(steps), ("",) * size, torch.tensor(groups), torch.zeros(size), 0
    )


@given(
    groups=st.lists(st.integers(0, 4), min_size=1, max_size=10),
    steps=st.integers(1, 6),
    steps_per_update=st.none() | st.integers(1, 7),
    prompts_per_update=st.none() | st.integers(1, 6),
    epochs=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_parts_cover_each_sample_at_each_step_once_an_epoch(
    groups: list[int], steps: int, steps_per_update: int | None, prompts_per_update: int | None, epochs: int, seed: int
) -> None:
    """And the samples of a prompt stay together, in the order of sampling."""
    batch = empty_batch(groups, steps)
    objective = make(steps_per_update=steps_per_update, prompts_per_update=prompts_per_update, epochs=epochs).build()
    parts = list(objective.parts(batch, torch.Generator().manual_seed(seed)))
    everything = sorted((sample, column) for sample in range(len(groups)) for column in range(steps))
    seen: list[tuple[int, int]] = []
    for part in parts:
        samples, columns = part.samples.tolist(), part.columns.tolist()
        members = [sample for sample, group in enumerate(groups) if group in {groups[s] for s in samples}]
        assert samples == members
        assert len({groups[sample] for sample in samples}) <= (prompts_per_update or 5)
        assert len(columns) <= (steps_per_update or steps)
        seen += [(sample, column) for sample in samples for column in columns]
    for epoch in range(epochs):
        assert sorted(seen[epoch * len(everything) : (epoch + 1) * len(everything)]) == everything


def test_the_generator_decides_the_order() -> None:
    def order(seed: int) -> list[list[int]]:
        objective = make(steps_per_update=1, prompts_per_update=1).build()
        parts = objective.parts(empty_batch([0, 1, 2, 3], 5), torch.Generator().manual_seed(seed))
        return [part.samples.tolist() + part.columns.tolist() for part in parts]

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != sorted(order(0))


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({"clip": "none"}, (0.4740769842 + 0.0181499279) / 2),
        ({"clip": "hard"}, (0.4740769842 + 0.1261308799) / 2),
        ({"clip": "pessimistic"}, (0.4740769842 + 0.1261308799) / 2),
        ({"clip": "none", "form": "trajectory"}, math.log1p(math.exp(-4.5))),
        ({"clip": "hard", "form": "trajectory"}, math.log1p(math.exp(-10 * (0.05 + 0.2006706955)))),
        ({"clip": "none", "pairs": "ranking"}, (0.4740769842 + 0.0181499279) / 2),
        ({"clip": "none", "pairs": "ranking", "form": "trajectory"}, math.log1p(math.exp(-4.5))),
    ],
)
def test_two_steps_of_a_pair(settings: dict[str, Any], loss: float) -> None:
    """T9's log-ratios (0.02, -0.03) and (0.2, -0.2) as the two steps of a chain; the second row is the winner."""
    g = torch.tensor([[-0.03, -0.2], [0.02, 0.2]])
    value, _ = preference_objective(make(**settings), given_likelihoods(g), torch.tensor([1.0, 2.0]), torch.zeros(2))
    assert value.item() == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_the_order_of_steps_and_prompts_does_not_matter(settings: dict[str, Any]) -> None:
    """Structural. Prompts are renamed and samples move as well."""
    config, these = make(**settings), scattered()
    value, metrics = preference_objective(config, these, REWARDS, GROUPS)
    order, columns = torch.tensor([4, 1, 5, 0, 3, 2]), torch.tensor([2, 0, 3, 1])
    again, same = preference_objective(config, rows(these, order, columns), REWARDS[order], 7 - GROUPS[order])
    assert again.item() == pytest.approx(value.item(), rel=1e-5)
    assert same == pytest.approx(metrics, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("settings", KINDS, ids=str)
def test_swapping_winners_and_losers_negates_the_margin(settings: dict[str, Any]) -> None:
    """Structural."""
    config, these = make(**settings), scattered()
    _, metrics = preference_objective(config, these, REWARDS, GROUPS)
    _, swapped = preference_objective(config, these, -REWARDS, GROUPS)
    assert abs(metrics["margin/mean"]) > 1e-3
    assert swapped["margin/mean"] == pytest.approx(-metrics["margin/mean"], abs=1e-6)
    assert swapped["margin/accuracy"] == pytest.approx(1 - metrics["margin/accuracy"], abs=1e-6)


def test_a_ranking_of_equals_teaches_nothing_and_goes_through() -> None:
    """Float32's .1 is above a gap of .1 for pairs, and not for a ranking: then there are pairs and no ranked group."""
    g = torch.zeros(2, 3, requires_grad=True)
    value, metrics = preference_objective(
        make(pairs="ranking", min_gap=0.1), given_likelihoods(g), torch.tensor([0.0, 0.1]), torch.zeros(2)
    )
    value.backward()
    assert (float(value.detach()), float(g.grad.abs().sum()), metrics["pairs"]) == (0, 0, 1)


@pytest.mark.parametrize("settings", [*KINDS, {"pairs": "consecutive", "ties": "keep"}], ids=str)
def test_a_dropped_sample_is_as_if_never_drawn(settings: dict[str, Any]) -> None:
    config, these = make(**settings), scattered()
    rewards, kept = REWARDS.clone(), torch.tensor([0, 2, 3, 4, 5])
    rewards[1] = math.nan
    value, metrics = preference_objective(config, these, rewards, GROUPS)
    expected, same = preference_objective(config, rows(these, kept), rewards[kept], GROUPS[kept])
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    assert metrics == pytest.approx(same)
    (gradient,) = torch.autograd.grad(value, these.log_prob)
    assert gradient.isfinite().all()
    assert gradient[1].abs().max() == 0
    assert gradient[0].abs().max() > 0


@pytest.mark.parametrize("rewards", [[1.0] * 6, [math.nan] * 6, [1.0, math.nan, math.nan] * 2])
@pytest.mark.parametrize("pairs", ["consecutive", "best_worst", "all_pairs", "ranking"])
def test_nothing_to_compare_is_no_gradient(rewards: list[float], pairs: str) -> None:
    these = scattered()
    value, metrics = preference_objective(make(pairs=pairs), these, torch.tensor(rewards), GROUPS)
    value.backward()
    assert value.item() == 0
    assert metrics == {"pairs": 0}
    assert these.log_prob.grad is not None
    assert these.log_prob.grad.abs().max() == 0


@pytest.mark.parametrize("pairs", ["consecutive", "best_worst", "all_pairs", "ranking"])
def test_a_tied_prompt_is_dropped_beside_one_that_is_not(pairs: str) -> None:
    """Ties are dropped unless asked for, so the tied prompt has neither weight nor gradient."""
    these, rewards = scattered(), torch.tensor([0.3, -1.0, 2.0, 1.0, 1.0, 1.0])
    value, _ = preference_objective(make(pairs=pairs), these, rewards, GROUPS)
    alone, _ = preference_objective(make(pairs=pairs), rows(these, torch.arange(3)), rewards[:3], GROUPS[:3])
    (gradient,) = torch.autograd.grad(value, these.log_prob)
    assert gradient[3:].abs().max() == 0
    assert value.item() == pytest.approx(alone.item(), rel=1e-5)


def test_a_kept_tie_counts_in_the_mean_without_gradient() -> None:
    these, rewards = scattered(), torch.tensor([0.3, 2.0, 1.0, 1.0])
    chosen, groups = rows(these, torch.tensor([0, 1, 3, 4])), torch.tensor([0, 0, 1, 1])
    value, _ = preference_objective(make(ties="keep"), chosen, rewards, groups)
    alone, _ = preference_objective(make(), rows(chosen, torch.arange(2)), rewards[:2], groups[:2])
    (gradient,) = torch.autograd.grad(value, these.log_prob)
    assert value.item() == pytest.approx((alone.item() + math.log(2)) / 2)
    assert gradient[[3, 4]].abs().max() == 0


def test_soft_labels_come_from_the_reward_gap() -> None:
    """At beta h = gap / temperature the label is met, so nothing is left to learn."""
    g = torch.tensor([[0.3], [0.0]], requires_grad=True)
    config = make(loss="soft", label_temperature=0.5, clip="none")
    preference_objective(config, given_likelihoods(g), torch.tensor([2.0, 0.5]), torch.zeros(2))[0].backward()
    assert g.grad is not None
    assert g.grad.abs().max() < 1e-6


def test_clip_fractions_are_counted_for_winners_and_losers_apart() -> None:
    g = torch.tensor([[0.2, 0.0, 0.2, 0.2], [0.0, -0.3, 0.0, 0.0]])
    _, metrics = preference_objective(make(clip="hard"), given_likelihoods(g), torch.tensor([1.0, 0.0]), torch.zeros(2))
    assert (metrics["clip/winner"], metrics["clip/loser"]) == (0.75, 0.25)
    assert metrics["margin/accuracy"] == 1


def first_update(policy: Policy, batch: Batch, **settings: Any) -> dict[str, float]:
    """Metrics of the objective's first gradient on a batch."""
    objective = make(**settings).build()
    objective.begin(policy, batch, 0)
    return objective.backward(policy, batch, EVERYTHING, 96)


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({"loss": "bt"}, 0.6931471806),
        ({"loss": "hinge"}, 1),
        ({"loss": "ipo", "beta": 0.1}, 25),
        ({"pairs": "ranking", "min_gap": 0.0}, 1.791759469 / 2),
        ({"form": "trajectory"}, 0.6931471806),
    ],
)
@pytest.mark.parametrize("reference", ["pretrained", "round"])
def test_the_first_loss_of_a_fresh_policy(
    policy: Policy, draw: Draw, settings: dict[str, Any], loss: float, reference: str
) -> None:
    """T11, and the clip fractions at update 0 are 0."""
    metrics = first_update(policy, draw(policy), reference=reference, **settings)
    assert metrics["loss"] == pytest.approx(loss, rel=1e-4)
    assert metrics["clip/winner"] == metrics["clip/loser"] == 0
    assert metrics["ratio/max_log"] < 1e-5


@pytest.mark.parametrize(
    ("reference", "clip"), [("round", "hard"), ("round", "pessimistic"), ("pretrained", "pessimistic")]
)
def test_nothing_is_clipped_at_update_zero_of_a_trained_policy(
    policy: Policy, nudge: Nudge, draw: Draw, reference: str, clip: str
) -> None:
    """However far from the pretrained reference: the pessimistic band moves with the sampling policy."""
    nudge(policy)
    metrics = first_update(policy, draw(policy), reference=reference, clip=clip, clip_range=1e-4)
    assert metrics["clip/winner"] == metrics["clip/loser"] == 0
    assert (abs(metrics["margin/mean"]) > 1e-4) == (reference == "pretrained")


def test_a_round_of_two_iterations_refers_to_its_snapshot(policy: Policy, nudge: Nudge, draw: Draw) -> None:
    objective = make(reference="round", round_length=2).build()
    nudge(policy)
    start = policy.weights()[0]
    objective.begin(policy, draw(policy), 0)
    nudge(policy)
    second = policy.weights()[0]
    batch = objective.begin(policy, draw(policy, version=1), 1)
    assert (policy.weights(REFERENCE_ADAPTER)[0] == start).all()
    later = objective.backward(policy, batch, EVERYTHING, 96)
    assert later["margin/std"] > 1e-4  # although the policy is the one that sampled
    batch = objective.begin(policy, draw(policy, version=2), 2)
    assert (policy.weights(REFERENCE_ADAPTER)[0] == second).all()
    fresh = objective.backward(policy, batch, EVERYTHING, 96)
    assert fresh["margin/std"] == 0


def test_a_round_of_one_iteration_needs_no_snapshot(policy: Policy, nudge: Nudge, draw: Draw) -> None:
    objective = make(reference="round", round_length=1).build()
    nudge(policy)
    batch = draw(policy)
    objective.begin(policy, batch, 0)
    assert objective.backward(policy, batch, EVERYTHING, 96)["margin/std"] < 1e-5
    nudge(policy)
    assert objective.backward(policy, batch, EVERYTHING, 96)["margin/std"] > 1e-4
    assert policy.snapshots == []


def test_the_kl_term_pulls_back_to_the_pretrained_model(policy: Policy, nudge: Nudge, draw: Draw) -> None:
    """Where all rewards are tied it is the only gradient."""
    nudge(policy, 0.1)
    batch = replace(draw(policy), rewards=torch.zeros(6))
    objective, divergence = make(kl_weight=5.0).build(), []
    for _ in range(3):
        for parameter in policy.parameters:
            parameter.grad = None
        divergence.append(objective.backward(policy, batch, EVERYTHING, 96)["kl/pretrained"])
        gradients = [parameter.grad for parameter in policy.parameters if parameter.grad is not None]
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        with torch.no_grad():
            for parameter, gradient in zip(policy.parameters, gradients, strict=True):
                parameter -= 0.1 * gradient / norm
    assert divergence == sorted(divergence, reverse=True)
    assert divergence[-1] < 0.9 * divergence[0]
