"""SPO: which candidates are a pair, its clamp, its gradient at once and in pieces, and what it counts."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import Request
from actors.transitions import log_prob
from learner.advantages import Advantages
from learner.batch import Batch, collate, joined
from learner.learner import Learner, LearnerConfig
from learner.objectives.spo import SPO, SPOConfig, spo_loss, step_pairs


def objective(**settings: Any) -> SPO:
    return SPOConfig(**settings).build()


def drawn(policy: Policy, judged: Any = None, stored: tuple[int, ...] = (1, 2, 3, 4), version: int = 0) -> Batch:
    """Two samples with three candidates."""
    request = Request(0, version, ("a red circle", "a star"), (0, 1), (0, 0), stored, candidates=3)
    scores = np.random.default_rng(version).normal(size=(2, len(stored), 3)) if judged is None else np.array(judged)
    return collate([rollout(policy, request, version)[1]], np.zeros(2, np.float32), judged=scores)


def ln(text: str) -> Tensor:
    return torch.tensor([float(number) for number in text.split()], dtype=torch.float64, requires_grad=True)


def test_the_best_and_the_worst_are_a_pair_if_their_softmax_differs_enough() -> None:
    """T15: scores [2, 1, .5, 1.5] differ by tanh(.75) = .635."""
    pairs = step_pairs(torch.tensor([[2.0, 1.0, 0.5, 1.5], [0.0, 0.1, 0.62, 0.3], [0.61, 0.0, 0.1, 0.2]]))
    assert pairs.winner.tolist() == [0, 2, 0]
    assert pairs.loser.tolist() == [2, 0, 1]
    assert math.tanh(float(pairs.gap[0]) / 2) == pytest.approx(0.6351489524)
    assert objective()._least == pytest.approx(0.6190392084)  # 2 atanh(.3)
    batch = replace(BATCH, judged=torch.tensor([[[2.0, 1.0, 0.5, 1.5], [0.0, 0.1, 0.62, 0.3], [0.61, 0.0, 0.1, 0.2]]]))
    parts = list(objective().parts(batch, torch.Generator()))
    assert sorted(parts[0].columns[:, 0].tolist()) == [0, 1]
    (part,) = objective(threshold=0.0).parts(batch, torch.Generator())
    assert len(part.samples) == 3
    assert not list(objective(threshold=0.7).parts(batch, torch.Generator()))


BATCH = Batch(
    torch.zeros(1, 3, 1), torch.zeros(1, 3, 1), torch.zeros(1, 3), torch.arange(3), ("a",), torch.zeros(1).long(),
    torch.zeros(1), 0,
)  # fmt: skip


def test_candidates_that_could_not_be_judged_are_in_no_pair() -> None:
    nan = math.nan
    pairs = step_pairs(torch.tensor([[nan, 1.0, 3.0], [nan, nan, 2.0], [nan, nan, nan], [-torch.inf, 0.0, 1.0]]))
    assert pairs.winner[0] == 2
    assert pairs.loser[0] == 1
    assert pairs.gap.tolist() == [2.0, 0.0, 0.0, 1.0]
    assert pairs.loser[3] == 1


def test_equal_scores_are_no_pair() -> None:
    assert step_pairs(torch.full((2, 4), 1.5)).gap.tolist() == [0.0, 0.0]
    batch = replace(BATCH, judged=torch.ones(1, 3, 4))
    assert not list(objective(threshold=0.0).parts(batch, torch.Generator()))


def test_the_loss_on_values_computed_by_hand() -> None:
    """As T9's hard clip: (.02, -.03) at beta 10 is .4740769842; beyond the band the logit is at most 2.007."""
    value, clipped = spo_loss(SPOConfig(), ln("0.02 0.2 -0.2"), ln("-0.03 -0.2 0.2"))
    assert value.tolist() == pytest.approx([0.4740769842, 0.1261308799, 2.132837835])
    assert clipped["clip/winner"].tolist() == clipped["clip/loser"].tolist() == [0, 1, 1]


def test_beyond_the_band_there_is_no_gradient_on_either_side() -> None:
    winner, loser = ln("0.02 0.2 -0.2"), ln("-0.03 -0.2 0.2")
    spo_loss(SPOConfig(), winner, loser)[0].sum().backward()
    assert winner.grad is not None
    assert loser.grad is not None
    assert winner.grad.tolist() == pytest.approx([-3.775406688, 0, 0])
    assert torch.equal(winner.grad, -loser.grad)


def test_a_fresh_adapter_is_at_ln_2_with_every_ratio_one(policy: Policy) -> None:
    made = Learner(LearnerConfig(lr=1e-3), policy, objective(threshold=0.0))
    metrics = made.step(drawn(policy)).metrics
    assert metrics["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert metrics["margin/mean"] == pytest.approx(0, abs=1e-6)
    assert metrics["grad_norm"] > 0
    assert metrics["pairs/kept"] == 1
    assert metrics["pairs"] == 8


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_the_gradient_is_the_loss_written_down_once_more(policy: Policy, micro_batch: int) -> None:
    """With winner and loser each through the network by itself, as the released code has it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters:
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    batch, made = drawn(policy), objective(threshold=0.0, beta=50.0, clip_range=0.5)
    (part,) = made.parts(made.begin(policy, batch, 0), torch.Generator())
    found = made.backward(policy, batch, part, micro_batch)
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None])
    for parameter in policy.parameters:
        parameter.grad = None
    assert batch.candidates is not None
    assert batch.judged is not None
    losses = []
    for row in range(2):
        for column, step in enumerate(batch.steps.tolist()):
            ratios = []
            for chosen in (batch.judged[row, column].argmax(), batch.judged[row, column].argmin()):
                x, index = batch.latents[row : row + 1, column], torch.tensor([step])
                text = policy.encode(batch.prompts[row : row + 1])
                means = []
                for adapter in ("policy", None):
                    with policy.using(adapter), torch.set_grad_enabled(adapter is not None):
                        means.append(policy.transitions.mean(x, policy.predict(x, index, text), index))
                std = policy.transitions.std_at(index, x)
                own, other = (log_prob(batch.candidates[row : row + 1, column, chosen], mean, std) for mean in means)
                ratios.append((own - other).clamp(math.log(0.5), math.log(1.5)))
            losses.append(torch.nn.functional.softplus(-50.0 * (ratios[0] - ratios[1])))
    torch.cat(losses).mean().backward()
    expected = torch.cat([p.grad.flatten() for p in policy.parameters if p.grad is not None])
    assert found["loss"] == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)
    assert float((gradient - expected).norm() / expected.norm()) < 1e-3
    assert found["pairs"] == 8


def test_learning_makes_the_winners_likelier_than_the_losers(policy: Policy) -> None:
    made = Learner(LearnerConfig(lr=2e-3, ratio_tolerance=1e9), policy, objective(threshold=0.0, clip_range=0.9))
    batch = drawn(policy)
    found = [made.step(batch).metrics["margin/accuracy"] for _ in range(8)]
    assert found[0] == pytest.approx(0.5)
    assert found[-1] > 0.8


def test_whoever_was_dropped_is_in_no_part(policy: Policy) -> None:
    batch = replace(drawn(policy), rewards=torch.tensor([math.nan, 0.0]))
    (part,) = objective(threshold=0.0).parts(batch, torch.Generator())
    assert set(part.samples.tolist()) == {1}


def test_without_a_pair_the_batch_changes_nothing(policy: Policy) -> None:
    made = Learner(LearnerConfig(lr=1e-3), policy, objective())
    before = policy.weights()[0].copy()
    metrics = made.step(drawn(policy, np.zeros((2, 4, 3)))).metrics
    assert metrics["updates"] == 0
    assert metrics["pairs/kept"] == 0
    assert np.array_equal(policy.weights()[0], before)


def test_pairs_are_shuffled_and_shared_out(policy: Policy) -> None:
    batch = drawn(policy)
    parts = list(objective(threshold=0.0, pairs_per_update=3).parts(batch, torch.Generator().manual_seed(0)))
    assert [len(part.samples) for part in parts] == [3, 3, 2]
    pairs = [(int(s), int(c)) for part in parts for s, c in zip(part.samples, part.columns[:, 0], strict=True)]
    assert sorted(pairs) == [(s, c) for s in range(2) for c in range(4)] != pairs
    (whole,) = objective(threshold=0.0, pairs_per_update=None).parts(batch, torch.Generator())
    assert len(whole.samples) == 8


def test_the_noisiest_steps_are_drawn_and_not_trained(policy: Policy) -> None:
    plan = objective().plan(policy.transitions)
    assert plan.stored_steps == (1, 2, 3, 4)
    assert plan.candidates == 4
    assert objective(skip_fraction=0.0).plan(policy.transitions).stored_steps == (0, 1, 2, 3, 4)


def test_every_picture_that_the_reward_was_shown_is_counted(policy: Policy) -> None:
    """Two images, and three candidates of each at four steps; predictions of two, but for the last step's."""
    spent = Learner(LearnerConfig(), policy, objective(threshold=0.999)).step(drawn(policy)).metrics
    assert spent["reward_queries"] == 2 + 2 * 4 * 3
    assert spent["images_drawn"] == 2
    assert spent["reward_gradients"] == 0
    assert spent["network_evaluations"] == 2 * policy.passes * (len(policy.transitions) + 3 * 2)


def test_scores_of_candidates_are_summed_on_their_own_scales() -> None:
    made = Advantages({"a": 2.0, "b": -1.0, "watched": 0.0})
    found = made.weighted({"a": np.array([[[1.0, np.nan]]]), "b": np.array([[[3.0, 0.0]]])})
    np.testing.assert_array_equal(found, np.array([[[-1.0, np.nan]]], np.float32))


def test_candidates_go_the_way_of_their_samples(policy: Policy) -> None:
    batch = drawn(policy)
    one = batch.take(torch.tensor([1]))
    both = joined([one, batch])
    for name in ("candidates", "judged"):
        whole, part, again = (getattr(of, name) for of in (batch, one, both))
        assert torch.equal(part, whole[1:])
        assert torch.equal(again, torch.cat([whole[1:], whole]))
    restored = Batch.of_state_dict(batch.state_dict())
    assert restored.candidates is not None
    assert torch.equal(restored.candidates, batch.candidates)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong", [{"candidates": 1}, {"threshold": 1.0}, {"skip_fraction": 1.0}, {"beta": 0.0}, {"clip_range": 1.0}]
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SPOConfig(**wrong)
