"""Comparisons at the same states with the same noise: every pair at every state, each picture once, both alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from actors.policy import Policy
from learner.batch import Batch
from learner.comparisons import Comparisons, margin_sums, with_deviation
from learner.preferences import make_pairs

SAMPLES, GROUPS = torch.tensor([4, 2, 9, 7, 1]), torch.tensor([3, 3, 5, 5, 5])
STEPS = torch.tensor([[10, 11], [10, 11], [20, 21], [20, 21], [20, 21]])


def compared() -> Comparisons:
    pairs = make_pairs(torch.tensor([1.0, 2, 0.3, 0.2, 0.1]), GROUPS, "all_pairs")
    return Comparisons.of(pairs, SAMPLES, STEPS, GROUPS)


def test_every_pair_is_compared_at_every_state_of_its_group() -> None:
    found = compared()
    rows = list(zip(found.winner.tolist(), found.loser.tolist(), found.step.tolist(), strict=True))
    expected = [(2, 4, s) for s in (10, 11)] + [(*pair, s) for s in (20, 21) for pair in ((9, 7), (9, 1), (7, 1))]
    assert rows == expected  # those of the same pictures at the same state side by side
    assert len(found) == 8
    assert found.pair.tolist() == [0, 0, 1, 2, 3, 1, 2, 3]


def test_both_of_a_pair_have_the_same_noise_and_each_picture_is_there_once(
    policy: Policy, draw: Callable[..., Batch]
) -> None:
    batch = replace(draw(policy), clean=torch.zeros(6, *policy.latent_shape))
    pairs = make_pairs(batch.rewards, batch.groups, "all_pairs")
    steps = torch.tensor([[0, 3]] * 3 + [[2, 4]] * 3)
    found = Comparisons.of(pairs, torch.arange(6), steps, batch.groups)
    state, winner, loser = found.noised(torch.arange(len(found)), policy, batch, 0, 0.0)
    assert len(state.x) == 12  # six pictures at two states, though there are twelve comparisons
    assert state.x[winner].equal(state.x[loser])
    assert state.step[winner].equal(found.step)
    assert state.step[loser].equal(found.step)
    assert not state.x[winner[0]].equal(state.x[winner[3]])  # another state, another noise
    some, (_, one, other) = torch.tensor([5, 1]), found.noised(torch.tensor([5, 1]), policy, batch, 0, 0.0)
    again = found.noised(some, policy, batch, 0, 0.0)[0]
    assert again.x[one].equal(state.x[winner[some]])  # whoever else is in the micro-batch
    assert again.x[other].equal(state.x[loser[some]])


def test_both_of_a_pair_lose_their_prompt_or_neither(policy: Policy, draw: Callable[..., Batch]) -> None:
    batch = replace(draw(policy), clean=torch.zeros(6, *policy.latent_shape))
    pairs = make_pairs(batch.rewards, batch.groups, "best_worst")
    found = Comparisons.of(pairs, torch.arange(6), torch.zeros(6, 1).long(), batch.groups)
    kinds = set()
    for number in range(12):
        state, winner, loser = found.noised(torch.arange(2), policy, batch, number, 0.5)
        told = state.conditioning["text"]
        assert told[winner].equal(told[loser])
        kinds.add(tuple((told[winner] == policy.encode([None])["text"]).flatten(1).all(dim=1).tolist()))
    assert len(kinds) == 4  # one group, the other, both, neither


@pytest.mark.parametrize("cut", [1, 3, 8])
def test_margins_of_micro_batches_add_up(cut: int) -> None:
    margin = torch.tensor([0.3, -0.2, 0.0, 0.0, 1e-4, -1e-4, 2.0, 0.1])
    totals: dict[str, float] = {}
    for piece in margin.split(cut):
        for name, part in margin_sums(piece, len(margin)).items():
            totals[name] = totals.get(name, 0.0) + float(part)
    found = with_deviation(totals)
    assert found["margin/mean"] == pytest.approx(float(margin.double().mean()), abs=1e-9)
    assert found["margin/std"] == pytest.approx(float(margin.double().std(correction=0)), abs=1e-6)
    above, equal = (margin > 0).double().mean(), (margin == 0).double().mean()
    assert found["margin/accuracy"] == pytest.approx(float(above + equal / 2))
