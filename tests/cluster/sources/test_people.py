"""A source that waits for people: which pairs are shown, how long it waits, and that it trains on what was chosen."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from actors.trajectories import Request
from cluster.errors import NobodyChose, RunStopped
from cluster.sources import people
from cluster.sources.answers import Answers
from cluster.sources.people import Asked
from cluster.sources.rollouts import Rollout
from learner.advantages import Advantages
from learner.likelihood import Likelihoods
from learner.objectives.d3po import D3POConfig, d3po_loss
from learner.objectives.ppod import PPODConfig, preference_objective
from learner.preferences import make_pairs
from rewards.people import choices
from rewards.people.choices import BOTH_BAD, TIE, Choice, Choices
from rewards.people.pick_a_pic import decode
from rewards.people.questions import Question, Questions
from rewards.people.reward import People

ids = count()


def rollout(groups: Sequence[int], samples: Sequence[int], pixels: np.ndarray) -> Rollout:
    request = Request(0, 0, tuple(f"prompt {group}" for group in groups), tuple(groups), tuple(samples))
    scores = {"shapes_gold": np.ones(len(groups), np.float32)}
    return Rollout(request, 0, 0.0, 1.0, pixels, None, scores)  # type: ignore[arg-type]


def batch() -> list[Rollout]:
    """Six pairs in three requests, which cut pairs in two: the fourth is of equal pictures, the fifth lacks one."""
    pixels: Any = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    pixels[7] = pixels[6]
    groups, samples = np.arange(12) // 2, np.arange(12) % 2
    found = []
    for rows in (slice(0, 3), slice(3, 9), slice(9, 12)):
        own = pixels[rows]
        if rows.start == 3:
            own = np.ma.masked_array(own, np.zeros(own.shape, bool))
            own[5] = np.ma.masked  # the first of the fifth pair
        found.append(rollout(groups[rows].tolist(), samples[rows].tolist(), own))
    return found


class Waiting:
    """A folder of a run, and somebody who chooses when the source looks around."""

    def __init__(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run, self.said = run, list[str]()
        self.progress = list[tuple[int, int]]()
        self.drawn = 0
        self.come: Callable[[], None] = lambda: None
        self.now = 0.0
        monkeypatch.setattr(people.ray, "get", lambda pixels: pixels)
        clock = SimpleNamespace(monotonic=lambda: self.now, sleep=self._sleep)
        monkeypatch.setattr(people, "time", clock)

    def source(self, **options: Any) -> Asked:
        def drawn(version: int, progress: object) -> list[Rollout]:
            self.drawn += 1
            return batch()

        source: Any = SimpleNamespace(batch=drawn)
        tell = lambda done, total: self.progress.append((done, total))  # noqa: E731
        return Asked(source, People(**options), "people", self.run, self.said.append, tell)

    def questions(self) -> list[Question]:
        return list(Questions(self.run / "people"))

    def choose(self, verdicts: dict[int, int | str], rater: str = "Ada") -> None:
        """Answers to pairs by the number in their prompt: 0 for the first picture, 1 for the second."""

        async def add() -> None:
            kept = Choices(self.run / "people")
            for question in self.questions():
                number = int(question.prompt.split()[1])
                if number in verdicts and not kept.answered(rater, question.id, 0):
                    made = (question.id, question.prompt, question.sets, (0, 1), verdicts[number], rater, 0, 1.0)
                    await kept.add(Choice(f"choice{next(ids):04d}", *made))
            kept.close()

        asyncio.run(add())

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.come()


@pytest.fixture
def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    return Waiting(tmp_path, monkeypatch)


def scores(found: Sequence[Rollout]) -> list[float]:
    return np.concatenate([each.scores["people"] for each in found]).tolist()


NONE = math.nan


def test_what_people_chose_are_the_scores_of_the_two(waiting: Waiting) -> None:
    waiting.come = lambda: waiting.choose({0: 0, 1: 1, 2: TIE, 5: BOTH_BAD})
    found = waiting.source().batch(0)
    assert {question.prompt for question in waiting.questions()} == {f"prompt {number}" for number in (0, 1, 2, 5)}
    expected = [1, 0, 0, 1, 0.5, 0.5, NONE, NONE, NONE, NONE, NONE, NONE]
    assert scores(found) == pytest.approx(expected, nan_ok=True)
    assert all(each.scores["shapes_gold"].tolist() == [1] * len(each.request.prompts) for each in found)
    answers = sum((each.answers for each in found if each.answers), Answers())
    assert answers == Answers(pairs=6, asked=4, chosen=2, ties=1, both_bad=1)


def test_the_pictures_that_are_shown_are_those_of_the_samples(waiting: Waiting) -> None:
    waiting.come = lambda: waiting.choose(dict.fromkeys(range(6), 0))
    found = waiting.source().batch(0)
    for question in waiting.questions():
        group = int(question.prompt.split()[1])
        for sample, (name,) in enumerate(question.sets):
            (own,) = [
                np.ma.getdata(each.pixels)[row]
                for each in found
                for row, place in enumerate(zip(each.request.prompt_index, each.request.sample_index, strict=True))
                if place == (group, sample)
            ]
            assert (decode((waiting.run / "people" / "pictures" / name).read_bytes()) == own).all()


def test_the_run_says_once_where_to_choose_and_how_far_it_is(waiting: Waiting) -> None:
    moves = iter([{}, {0: 0}, {0: 0, 1: 0, 2: 1, 5: 1}])
    waiting.come = lambda: waiting.choose(next(moves))
    source = waiting.source()
    source.batch(0)
    assert waiting.said == [f"4 pairs wait for people to choose between them: python -m cluster.label {waiting.run}"]
    assert waiting.progress == [(0, 4), (0, 4), (1, 4), (4, 4)]


def test_as_many_pairs_as_are_asked_for_are_enough_and_the_others_are_closed(waiting: Waiting) -> None:
    moves = iter([{0: 0}, {1: BOTH_BAD}, {2: 1}])
    waiting.come = lambda: waiting.choose(next(moves))
    found = waiting.source(pairs=2).batch(0)
    assert scores(found)[:6] == pytest.approx([1, 0, NONE, NONE, 0, 1], nan_ok=True)
    asked = Questions(waiting.run / "people")
    assert all(asked.closed(question.id) for question in asked)


def test_nothing_is_left_to_wait_for_when_all_are_answered(waiting: Waiting) -> None:
    waiting.come = lambda: waiting.choose(dict.fromkeys(range(6), BOTH_BAD))
    assert np.isnan(scores(waiting.source(pairs=1).batch(0))).all()


def test_when_the_time_is_over_it_goes_on_with_what_there_is(waiting: Waiting) -> None:
    waiting.come = lambda: waiting.choose({0: 0})
    found = waiting.source(patience=10).batch(3)
    assert np.isfinite(scores(found)).tolist() == [True, True, *[False] * 10]
    assert waiting.now == 10
    assert waiting.said[-1] == (
        "1 of the 4 pairs of iteration 4 were chosen in 10 s (rewards.people.options.patience); it trains on those"
    )


def test_when_nobody_comes_the_run_ends_and_the_questions_stay(waiting: Waiting) -> None:
    with pytest.raises(NobodyChose) as caught:
        waiting.source(patience=60).batch(0)
    assert str(caught.value) == (
        "Nobody has chosen between any of the 4 pairs of iteration 1 in 60 s (rewards.people.options.patience); they "
        f"stay open for whoever comes (python -m cluster.label {waiting.run}), and the run goes on with --resume "
        f"{waiting.run}."
    )
    asked = Questions(waiting.run / "people")
    assert len(asked) == 4
    assert not any(asked.closed(question.id) for question in asked)
    waiting.choose(dict.fromkeys(range(6), 0))  # meanwhile
    assert np.isfinite(scores(waiting.source(patience=60).batch(0))).sum() == 8
    assert len(waiting.questions()) == 4


def test_a_batch_that_comes_again_is_what_it_was_whatever_was_chosen_since(waiting: Waiting) -> None:
    waiting.come = lambda: waiting.choose({0: 0})
    first = scores(waiting.source(pairs=1).batch(0))
    waiting.choose({0: 1, 1: 1, 2: 1}, rater="Bo")
    waiting.come = lambda: pytest.fail("it waited again")
    assert scores(waiting.source(pairs=1).batch(0)) == pytest.approx(first, nan_ok=True)
    assert len(waiting.questions()) == 4
    assert len(choices.read(waiting.run / "people")) == 4


@pytest.mark.parametrize(("change", "dropped"), [(1, False), (100, True)])
def test_choices_are_not_trained_on_when_the_pictures_come_again_as_others(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch, change: int, dropped: bool
) -> None:
    """A level is what another kind of GPU may make of a picture."""
    waiting.come = lambda: waiting.choose(dict.fromkeys(range(6), 0))
    first = scores(waiting.source().batch(0))
    again = batch()
    first_picture = again[0].pixels[0]  # type: ignore[index]
    first_picture[...] = np.where(first_picture < 128, first_picture + change, first_picture - change)
    source = waiting.source()
    monkeypatch.setattr(source._source, "batch", lambda version, progress: again)
    waiting.said.clear()
    rollouts = source.batch(0)
    found = scores(rollouts)
    answers = sum((each.answers for each in rollouts if each.answers), Answers())
    assert answers == Answers(pairs=6, asked=4, chosen=4 - dropped, discarded=int(dropped))
    assert found[2:] == pytest.approx(first[2:], nan_ok=True)
    assert np.isnan(found[:2]).all() if dropped else found[:2] == first[:2]
    assert waiting.said == dropped * [
        "1 of the 4 pairs of iteration 1 have other pictures than when people were asked; what was chosen of those is "
        "not trained on"
    ]


def test_people_are_asked_anew_where_the_pictures_come_again_as_others(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers to pictures that are gone are not waited for, nor are they enough."""

    def killed() -> None:
        waiting.choose({0: 0, 1: 0})
        raise SystemExit("killed")

    waiting.come = killed
    with pytest.raises(SystemExit):
        waiting.source(pairs=2).batch(0)
    before = {question.prompt: question for question in waiting.questions()}
    again = batch()
    again[0].pixels[...] = 255 - again[0].pixels  # type: ignore[index, operator]
    source = waiting.source(pairs=2)
    monkeypatch.setattr(source._source, "batch", lambda version, progress: again)
    waiting.said.clear()
    waiting.progress.clear()
    waiting.come = lambda: waiting.choose({0: 1, 5: TIE})
    rollouts = source.batch(0)
    assert waiting.progress == [(0, 2), (2, 2)]
    assert scores(rollouts) == pytest.approx([0, 1, *[NONE] * 8, 0.5, 0.5], nan_ok=True)
    answers = sum((each.answers for each in rollouts if each.answers), Answers())
    assert answers == Answers(pairs=6, asked=4, chosen=1, ties=1)
    new = [question for question in waiting.questions() if question != before[question.prompt]]
    assert [question.prompt for question in new] == ["prompt 0", "prompt 1"]
    assert waiting.said[0] == (
        "2 of the 4 pairs of iteration 1 have other pictures than when people were asked; what was chosen of those is "
        "not trained on, and people are asked about the new ones"
    )
    waiting.come = lambda: pytest.fail("it waited again")
    assert scores(source.batch(0)) == pytest.approx(scores(rollouts), nan_ok=True)


def test_only_what_was_answered_counts_as_discarded(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting.come = lambda: waiting.choose({0: 0})
    waiting.source(pairs=1).batch(0)
    again = batch()
    for each in again:
        each.pixels[...] = 255 - each.pixels  # type: ignore[index, operator]
    source = waiting.source()
    monkeypatch.setattr(source._source, "batch", lambda version, progress: again)
    rollouts = source.batch(0)
    answers = sum((each.answers for each in rollouts if each.answers), Answers())
    assert answers == Answers(pairs=6, asked=4, discarded=1)
    assert np.isnan(scores(rollouts)).all()


def test_a_batch_without_a_pair_to_show_ends_the_run(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    equal = [rollout((0, 0), (0, 1), np.zeros((2, 8, 8, 3), np.uint8))]
    source = waiting.source()
    monkeypatch.setattr(source._source, "batch", lambda version, progress: equal)
    with pytest.raises(RunStopped, match="Iteration 1 has no pair of two different pictures"):
        source.batch(0)


GROUPS = torch.arange(12) // 2
SHARES = [1.0, 0.0, 0.25, 0.75, 0.5, 0.5, *[NONE] * 6]


def test_the_pairs_that_train_are_the_chosen_ones_with_the_weight_of_the_votes() -> None:
    raw = np.array(SHARES, np.float32)
    rewards, metrics = Advantages({"people": 1.0}, "nothing").of({"people": raw}, GROUPS.numpy(), [""] * 12)
    pairs = make_pairs(torch.from_numpy(rewards), GROUPS, "all_pairs")
    assert list(zip(pairs.winner.tolist(), pairs.loser.tolist(), pairs.gap.tolist(), strict=True)) == [
        (0, 1, 1.0),
        (3, 2, 0.5),
    ]
    tied = make_pairs(torch.from_numpy(rewards), GROUPS, "all_pairs", keep_ties=True)
    assert tied.gap.tolist() == [1.0, 0.5, 0.0]
    assert metrics["reward/mean"] == 0.5


def test_losses_are_those_of_the_chosen_pairs_alone() -> None:
    """In closed form, in float64: the same loss and gradient as of a batch in which nobody else is."""
    generator = torch.Generator().manual_seed(0)
    ratios = torch.randn(12, 3, generator=generator, dtype=torch.float64) * 1e-2
    rewards = torch.tensor(SHARES)

    def gradient(loss: Callable[..., Any], rows: torch.Tensor) -> tuple[float, torch.Tensor]:
        leaf = ratios[rows].clone().requires_grad_()
        nothing = torch.zeros_like(leaf)
        value, _ = loss(Likelihoods(leaf, nothing, nothing, nothing), rewards[rows], GROUPS[rows])
        value.backward()
        assert leaf.grad is not None
        return float(value.detach()), leaf.grad

    chosen, everyone = torch.arange(4), torch.arange(12)
    config = PPODConfig(clip="none", kl_weight=0)
    ours = lambda *given: preference_objective(config, *given)  # noqa: E731
    (one, own), (all_, of_all) = gradient(ours, chosen), gradient(ours, everyone)
    margins = torch.stack([ratios[0] - ratios[1], ratios[3] - ratios[2]])
    assert one == pytest.approx(float(torch.nn.functional.softplus(-10 * margins).mean()), rel=1e-12)
    assert all_ == pytest.approx(one, rel=1e-12)
    assert torch.equal(of_all[:4], own)
    assert not of_all[4:].any()
    # D3PO counts a tie in its mean, as a constant.
    d3po = lambda *given: d3po_loss(D3POConfig(), *given)  # noqa: E731
    (one, own), (all_, of_all) = gradient(d3po, chosen), gradient(d3po, everyone)
    assert all_ == pytest.approx((2 * one + math.log(2)) / 3, rel=1e-12)
    assert torch.allclose(of_all[:4], own * 2 / 3, rtol=1e-12)
    assert not of_all[4:].any()
