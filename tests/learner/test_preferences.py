"""Pairs, preference losses, rankings and clips against closed forms."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from learner.preferences import (
    Clip,
    LossKind,
    PairRule,
    clip_ratios,
    make_pairs,
    plackett_luce,
    preference_loss,
    proximal,
)

NAN = math.nan


def f64(*values: float) -> Tensor:
    """A float64 leaf."""
    return torch.tensor(values, dtype=torch.float64, requires_grad=True)


def ranking(scores: Tensor, rewards: list[float], min_gap: float = 0.0) -> Tensor:
    """The Plackett-Luce sum, without the division by M - 1."""
    return plackett_luce(scores, torch.tensor(rewards), min_gap) * (len(rewards) - 1)


def test_ppo_surrogate() -> None:
    """T4: around a zero anchor the pessimistic clip is PPO's."""
    advantage = torch.tensor([1, -1, 2, -0.5, 1, -1], dtype=torch.float64)
    log_ratio = f64(2e-4, 2e-4, -2e-4, -2e-4, 5e-5, -5e-5)
    clipped = clip_ratios(log_ratio, torch.zeros_like(log_ratio), 1e-4, "pessimistic", winner=True)
    losses = proximal(lambda ratio: -advantage * ratio.exp(), (log_ratio,), (clipped,), "pessimistic")
    (gradient,) = torch.autograd.grad(losses.mean() * 6, log_ratio)
    expected = [-1.0001, 1.00020002, -1.99960004, 0.49995, -1.00005, 0.99995]
    assert losses.tolist() == pytest.approx(expected, abs=1e-8)
    assert losses.mean().item() == pytest.approx(-0.24994167, abs=1e-8)
    assert gradient.tolist() == pytest.approx([0, 1.0002, -1.9996, 0, -1.00005, 0.99995], abs=1e-7)
    assert (clipped != log_ratio).double().mean().item() == pytest.approx(0.6667, abs=1e-4)


def test_diffusion_dpo() -> None:
    """T8: half of beta 5000, and beta 2500, of the same error difference."""
    winner, loser, reference_winner, reference_loser = 0.1000, 0.1010, 0.1002, 0.1008
    margin = f64((reference_winner - winner) - (reference_loser - loser))
    assert (2500 * margin).item() == pytest.approx(1.0)
    for loss in (preference_loss(0.5 * margin, 5000), preference_loss(margin, 2500)):
        assert loss.item() == pytest.approx(0.3132616875, abs=1e-9)


def clipped_loss(winner: Tensor, loser: Tensor, clip: Clip, kind: LossKind, clip_range: float = 0.1) -> Tensor:
    """The loss of one pair with beta 10 and the reference as the sampling policy."""
    pair = (winner, loser)
    clipped = tuple(
        clip_ratios(g, torch.zeros_like(g), clip_range, clip, winner=first)
        for g, first in zip(pair, (True, False), strict=True)
    )
    return proximal(lambda w, lo: preference_loss(w - lo, 10, kind), pair, clipped, clip)


@pytest.mark.parametrize(
    ("winner", "loser", "clip", "kind", "loss", "slope"),
    [
        (0.02, -0.03, "none", "bt", 0.4740769842, -3.775406688),
        (0.02, -0.03, "hard", "bt", 0.4740769842, -3.775406688),
        (0.02, -0.03, "pessimistic", "bt", 0.4740769842, -3.775406688),
        (0.02, -0.03, "one_sided", "bt", 0.4740769842, -3.775406688),
        (0.02, -0.03, "none", "hinge", 0.5, -10),
        (0.02, -0.03, "none", "ipo", 0, 0),
        (0.2, -0.2, "none", "bt", 0.0181499279, -10 / (1 + math.exp(4))),
        (0.2, -0.2, "hard", "bt", 0.1261308799, 0),
        (0.2, -0.2, "pessimistic", "bt", 0.1261308799, 0),
        (0.2, -0.2, "one_sided", "bt", 0.1261308799, 0),
        (-0.2, 0.2, "hard", "bt", 2.132837835, 0),
        (-0.2, 0.2, "pessimistic", "bt", 4.018149928, -10 / (1 + math.exp(-4))),
        (-0.2, 0.2, "one_sided", "bt", 4.018149928, -10 / (1 + math.exp(-4))),
        (-0.2, 0.2, "hard", "hinge", 3.006706955, 0),
        (-0.2, 0.2, "pessimistic", "hinge", 5, -10),
        (-0.2, 0.2, "hard", "ipo", 0.0628357976, 0),
        (-0.2, 0.2, "pessimistic", "ipo", 0.2025, -0.9),
    ],
)
def test_a_pair_under_every_clip(
    winner: float, loser: float, clip: Clip, kind: LossKind, loss: float, slope: float
) -> None:
    """T9: the loss, and its gradient with respect to the winner; the loser's is its negative."""
    w, lo = f64(winner), f64(loser)
    value = clipped_loss(w, lo, clip, kind)
    gradients = torch.autograd.grad(value.sum(), (w, lo))
    assert value.item() == pytest.approx(loss, abs=1e-8)
    assert [float(gradient) for gradient in gradients] == pytest.approx([slope, -slope], abs=1e-8)


@given(st.floats(-0.3, 0.3), st.floats(-0.3, 0.3), st.sampled_from([1e-3, 0.1]))
def test_the_pessimistic_band_moves_with_the_sampling_policy(offset: float, anchor: float, clip_range: float) -> None:
    found = clip_ratios(f64(anchor + offset), f64(anchor), clip_range, "pessimistic", winner=True).item() - anchor
    assert found == pytest.approx(min(max(offset, math.log(1 - clip_range)), math.log(1 + clip_range)), abs=1e-12)


def test_huge_log_ratios_do_not_overflow() -> None:
    for clip in ("hard", "pessimistic", "one_sided", "none"):
        w, lo = torch.tensor([-5000.0, 5000.0]).requires_grad_(), torch.tensor([5000.0, -5000.0])
        loss = clipped_loss(w, lo, clip, "bt")
        loss.sum().backward()
        assert loss.isfinite().all()
        assert w.grad is not None
        assert w.grad.isfinite().all()


@pytest.mark.parametrize(("kind", "beta", "value"), [("bt", 10, 0.6931471806), ("hinge", 10, 1), ("ipo", 0.1, 25)])
def test_losses_where_policy_and_reference_agree(kind: LossKind, beta: float, value: float) -> None:
    """T11."""
    assert preference_loss(f64(0.0), beta, kind).item() == pytest.approx(value)


@given(st.floats(-3, 3), st.floats(0, 1))
def test_swapping_the_pair_negates_margin_and_label(margin: float, label: float) -> None:
    here = preference_loss(f64(margin), 2.0, "soft", f64(label))
    swapped = preference_loss(f64(-margin), 2.0, "soft", f64(1 - label))
    assert here.item() == pytest.approx(swapped.item())


@given(st.floats(-3, 3))
def test_a_certain_label_is_bradley_terry(margin: float) -> None:
    soft = preference_loss(f64(margin), 2.0, "soft", f64(1.0))
    assert soft.item() == pytest.approx(preference_loss(f64(margin), 2.0).item())


def test_a_soft_label_is_met_exactly() -> None:
    """The gradient vanishes where sigmoid(beta h) is the label."""
    margin = f64(math.log(0.7 / 0.3) / 2.0)
    preference_loss(margin, 2.0, "soft", f64(0.7)).sum().backward()
    assert margin.grad is not None
    assert margin.grad.item() == pytest.approx(0, abs=1e-12)


def test_soft_labels_must_be_given() -> None:
    with pytest.raises(ValueError, match="label"):
        preference_loss(f64(0.0), 1.0, "soft")


def normal_log_ratio(mean: Tensor, x: Tensor) -> Tensor:
    """log N(x; mean, 1) - log N(x; 0, 1)."""
    return mean * x - mean**2 / 2


def test_loss_at_the_conjugate_optimum() -> None:
    """T12: reward x, reference N(0, 1) and beta 0.5 have their optimum at N(2, 1), where beta h is the reward gap."""
    mean = f64(2.0)
    margin = normal_log_ratio(mean, f64(1.0)) - normal_log_ratio(mean, f64(-1.0))
    assert 0.5 * margin.item() == pytest.approx(2)
    assert preference_loss(margin, 0.5).item() == pytest.approx(0.126928011, abs=1e-8)


@pytest.mark.parametrize(("labels", "tolerance"), [("soft", 1e-6), ("drawn", 0.06)])
def test_descent_finds_the_conjugate_optimum(labels: str, tolerance: float) -> None:
    """T12: with labels drawn from Bradley-Terry, and with its probabilities themselves."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 40_000, generator=generator, dtype=torch.float64)
    probability = torch.sigmoid(x[0] - x[1])
    drawn = (torch.rand(x.shape[1], generator=generator) < probability).double()
    mean = f64(0.0)
    optimizer = torch.optim.SGD([mean], lr=8)
    for _ in range(40):
        optimizer.zero_grad()
        margin = normal_log_ratio(mean, x[0]) - normal_log_ratio(mean, x[1])
        preference_loss(margin, 0.5, "soft", probability if labels == "soft" else drawn).mean().backward()
        optimizer.step()
    assert mean.item() == pytest.approx(2, abs=tolerance)


def test_plackett_luce_by_hand() -> None:
    """T10."""
    scores = f64(0.5, 0.0, -0.5)
    loss = ranking(scores, [3, 2, 1])
    (gradient,) = torch.autograd.grad(loss, scores)
    assert loss.item() == pytest.approx(1.154346655, abs=1e-8)
    assert gradient.tolist() == pytest.approx([-0.4935196089, -0.0703447831, 0.563864392], abs=1e-8)
    assert ranking(scores, [1, 2, 3]).item() == pytest.approx(2.654346655, abs=1e-8)
    assert ranking(f64(0.5, -0.5), [1, 0]).item() == pytest.approx(0.3132616875, abs=1e-8)


@pytest.mark.parametrize(("items", "value"), [(2, math.log(2)), (3, 1.791759469), (4, 3.17805383)])
def test_plackett_luce_where_policy_and_reference_agree(items: int, value: float) -> None:
    """T11: ln M!."""
    loss = ranking(torch.zeros(items, dtype=torch.float64), [float(i) for i in range(items)])
    assert loss.item() == pytest.approx(value, abs=1e-8)


@pytest.mark.parametrize(
    ("rewards", "min_gap"), [([1.0, 2.0, 1.0], 0.0), ([1.0, 2.0, 1.05], 0.1), ([1.05, 2.0, 1.0], 0.1)]
)
def test_ties_at_the_end_of_a_ranking(rewards: list[float], min_gap: float) -> None:
    """Breslow's form: both tied items against the set that they share."""
    a, b, c = 0.3, -0.2, 0.9
    together, pair = (math.log(sum(math.exp(s) for s in those)) for those in ((a, b, c), (a, c)))
    assert ranking(f64(a, b, c), rewards, min_gap).item() == pytest.approx((together - b) + 2 * pair - a - c)


def test_a_tie_is_between_two_items_and_is_not_handed_on() -> None:
    """Each of three neighbours is close to the next, but the first still beats the last."""
    a, b, c = 0.3, -0.2, 0.9
    together, pair = (math.log(sum(math.exp(s) for s in those)) for those in ((a, b, c), (b, c)))
    assert ranking(f64(a, b, c), [1.0, 0.5, 0.0], 0.7).item() == pytest.approx(2 * together + pair - a - b - c)


def test_a_ranking_with_a_gap_learns_from_many_close_neighbours() -> None:
    """Of 24 rewards no two neighbours differ by the gap; where nothing is learned yet, better items are pushed up."""
    rewards = torch.randn(24, generator=torch.Generator().manual_seed(2))
    assert -rewards.sort(descending=True).values.diff().min() < 0.7 < rewards.max() - rewards.min()
    scores = torch.zeros(24, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(plackett_luce(scores, rewards, 0.7), scores)
    ordered = gradient[rewards.argsort(descending=True)]
    assert (ordered.diff() >= 0).all()
    assert ordered[0] < -0.02
    assert ordered[-1] > 0.02


def test_ties_at_the_head_of_a_ranking() -> None:
    a, b, c = 0.3, -0.2, 0.9
    together = math.log(sum(math.exp(s) for s in (a, b, c)))
    assert ranking(f64(a, b, c), [2, 2, 0]).item() == pytest.approx(2 * together - a - b)
    assert ranking(f64(a, b, c), [2, 2, 2]).item() == pytest.approx(3 * together - a - b - c)


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 3)), min_size=2, max_size=6),
    st.sampled_from([0.0, 1.5]),
    st.floats(-5, 5),
    st.randoms(),
)
def test_invariances_of_a_ranking(items: list[tuple[float, int]], gap: float, shift: float, random: object) -> None:
    """To a constant, so the gradient sums to 0, and to the order in which the items are listed."""
    scores, rewards = f64(*(s for s, _ in items)), [float(r) for _, r in items]
    loss = ranking(scores, rewards, gap)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert ranking(scores + shift, rewards, gap).item() == pytest.approx(loss.item(), abs=1e-9)
    assert gradient.sum().item() == pytest.approx(0, abs=1e-9)
    shuffled = list(items)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    again = ranking(f64(*(s for s, _ in shuffled)), [float(r) for _, r in shuffled], gap)
    assert again.item() == pytest.approx(loss.item(), abs=1e-9)


def test_a_ranking_keeps_the_trailing_dimensions() -> None:
    scores, rewards = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([1.0, 3.0, 3.0, 0.0])
    columns = torch.stack([plackett_luce(scores[:, k], rewards) for k in range(3)])
    torch.testing.assert_close(plackett_luce(scores, rewards), columns)


REWARDS = st.lists(st.one_of(st.just(NAN), st.integers(-2, 2).map(float)), max_size=9)


@given(st.data(), REWARDS, st.sampled_from([0.0, 1.0]), st.booleans())
@pytest.mark.parametrize("rule", ["consecutive", "best_worst", "all_pairs"])
def test_pairs_are_preferences_within_a_group(
    rule: PairRule, data: st.DataObject, rewards: list[float], min_gap: float, keep_ties: bool
) -> None:
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(rewards), max_size=len(rewards)))
    pairs = make_pairs(
        torch.tensor(rewards), torch.tensor(groups, dtype=torch.int64), rule, min_gap=min_gap, keep_ties=keep_ties
    )
    rows = list(zip(pairs.winner.tolist(), pairs.loser.tolist(), pairs.gap.tolist(), strict=True))
    for winner, loser, gap in rows:
        assert winner != loser
        assert groups[winner] == groups[loser]
        difference = rewards[winner] - rewards[loser]  # NaN would fail both
        if gap == 0:
            assert keep_ties
            assert abs(difference) <= min_gap
        else:
            assert difference == gap > min_gap
    assert len({frozenset(row[:2]) for row in rows}) == len(rows)


@given(st.data(), REWARDS, st.sampled_from([0.0, 1.0]), st.booleans())
def test_all_pairs_leave_nobody_out(data: st.DataObject, rewards: list[float], min_gap: float, keep_ties: bool) -> None:
    groups = data.draw(st.lists(st.integers(0, 2), min_size=len(rewards), max_size=len(rewards)))
    counts = Counter((g, r) for g, r in zip(groups, rewards, strict=True) if not math.isnan(r))
    expected = sum(
        counts[a] * counts[b] for a, b in combinations(counts, 2) if a[0] == b[0] and abs(a[1] - b[1]) > min_gap
    )
    if keep_ties:
        sizes = Counter(g for g, r in zip(groups, rewards, strict=True) if not math.isnan(r))
        expected = sum(math.comb(size, 2) for size in sizes.values())
    pairs = make_pairs(
        torch.tensor(rewards),
        torch.tensor(groups, dtype=torch.int64),
        "all_pairs",
        min_gap=min_gap,
        keep_ties=keep_ties,
    )
    assert len(pairs) == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("consecutive", [(1, 0, 2.0), (2, 4, 3.0), (7, 6, 1.0)]),
        ("best_worst", [(1, 4, 4.0), (7, 6, 1.0)]),
        ("all_pairs", [(1, 0, 2.0), (0, 4, 2.0), (1, 2, 1.0), (1, 4, 4.0), (2, 0, 1.0), (2, 4, 3.0), (7, 6, 1.0)]),
    ],
)
def test_pair_rules_by_hand(rule: PairRule, expected: list[tuple[int, int, float]]) -> None:
    """Two interleaved groups, one dropped sample in each."""
    rewards = torch.tensor([1.0, 3.0, 2.0, NAN, -1.0, NAN, 4.0, 5.0])
    groups = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1])
    pairs = make_pairs(rewards, groups, rule)
    found = zip(pairs.winner.tolist(), pairs.loser.tolist(), pairs.gap.tolist(), strict=True)
    assert sorted(found) == sorted(expected)
