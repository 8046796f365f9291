"""The guard's rules on evaluations made up for them: what is broken, what is said of it, and which is the best."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.config.guard import GuardConfig
from cluster.records.guard import BEST, Evaluation, Guard, errors_below, evaluation

IMAGES = np.linspace(0, 1, 16)
WIGGLE = 0.02 * np.cos(np.arange(16))  # sums to almost nothing


def evaluated(iteration: int, watched: float = 0.5, trained: float = 0.0, **figures: float) -> Evaluation:
    """Held-out means around which images spread widely, and move alike from one evaluation to the next."""
    noise = WIGGLE * (iteration % 3)
    scores = {
        "held_out/watched": watched + IMAGES - 0.5 + noise,
        "held_out/trained": trained + IMAGES - 0.5 + noise,
    }
    means = {name: float(values.mean()) for name, values in scores.items()}
    others = {f"held_out/{name}": value for name, value in figures.items()}
    return Evaluation(iteration, means | others, scores)


def guard(**settings: Any) -> Guard:
    return Guard(GuardConfig(**settings), {"trained": 1.0, "watched": 0.0})


def test_standard_errors_are_of_the_difference_picture_by_picture() -> None:
    before, fall = np.array([0.0, 5.0, 10.0, np.nan]), np.array([0.1, 0.2, 0.3, 1.0])
    assert errors_below(before - fall, before) == pytest.approx(0.2 / (0.1 / math.sqrt(3)))
    assert math.isnan(errors_below(before[:1], before[:1]))
    assert math.isnan(errors_below(before[:2], before))
    assert math.isnan(errors_below(None, before))


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=9), st.floats(-10, 10))
def test_what_all_pictures_share_does_not_count(falls: list[float], shift: float) -> None:
    before, fall = np.arange(len(falls), dtype=float), np.round(falls, 3)
    assert errors_below(before - fall, before) == pytest.approx(errors_below(shift - fall, np.full(len(falls), shift)))


def test_a_watched_reward_that_falls_is_said_once_and_with_its_figures() -> None:
    watch = guard()
    assert watch.look(evaluated(0)).used == {"watched": 0.0}
    risen = watch.look(evaluated(1, watched=0.55, trained=1.0))
    assert risen.used["watched"] < 1
    assert not risen.warnings
    fallen = watch.look(evaluated(2, watched=0.45, trained=2.0))
    (warned,) = fallen.warnings
    assert fallen.used["watched"] > 1
    assert (warned.iteration, warned.rule) == (2, "watched")
    assert warned.sentence.startswith("Iteration 2: watched on the held-out prompts is 0.45")
    assert "standard errors below its best so far (0.55" in warned.sentence
    assert warned.sentence.endswith("the best checkpoint so far is that of iteration 1.")
    again = watch.look(evaluated(3, watched=0.3))
    assert again.used["watched"] > 1
    assert not again.warnings


@pytest.mark.parametrize(("fall", "used"), [(1e-4, 1e-4 / 0.03), (0.1, 0.1 / 0.03)])
def test_a_fall_that_all_pictures_share_counts_in_hundredths_of_their_deviation(fall: float, used: float) -> None:
    watch = guard()
    watch.look(evaluated(0))
    assert watch.look(evaluated(3, watched=0.5 - fall)).used["watched"] == pytest.approx(used / IMAGES.std())


@pytest.mark.parametrize(
    ("kept", "errors", "low", "high"),
    [(0, 3, 0.13, 0.24), (0, 4, 0.0, 0.04), (1, 3, 0.02, 0.1)],  # the shares that docs/monitoring.md has
)
def test_how_many_runs_warn_though_nothing_falls(kept: int, errors: float, low: float, high: float) -> None:
    """64 pictures, 20 evaluations, each picture's noise drawn anew every time, or added to what was (`kept`)."""
    rng, runs, warned = np.random.default_rng(0), 400, 0
    for _ in range(runs):
        noise = rng.normal(size=(20, 64))
        scores = noise.cumsum(0) if kept else noise
        best, broken = scores[0], False
        for now in scores[1:]:
            broken |= errors_below(now, best) > errors
            best = now if now.mean() > best.mean() else best
        warned += broken
    assert low < warned / runs < high


def test_a_trained_reward_is_another_word() -> None:
    watch = guard(rules={"watched": None, "own": {"figure": "trained", "falls": 0.1}})
    watch.look(evaluated(0))
    assert not watch.look(evaluated(1, watched=-1.0)).warnings
    assert [one.rule for one in watch.look(evaluated(2, trained=-0.2)).warnings] == ["own"]


@pytest.mark.parametrize(
    ("rule", "figures", "used"),
    [
        ({"figure": "diversity", "share": 0.6}, [0.5, 0.4], 0.5),
        ({"figure": "distance", "above": 0.2}, [0.0, 0.1], 0.5),
        ({"figure": "diversity", "falls": 0.2}, [0.5, 0.6, 0.5], 0.5),
        ({"figure": "diversity", "falls": 0.05, "share": 0.6}, [0.5, 0.4], 0.5),  # the first alone is broken
    ],
)
def test_what_a_rule_allows_is_used_up_to_one(rule: dict[str, Any], figures: list[float], used: float) -> None:
    watch = guard(rules={"watched": None, "diversity": None, "mine": rule})
    verdicts = [watch.look(evaluated(i, **{rule["figure"]: value})) for i, value in enumerate(figures)]
    assert verdicts[-1].used == {"mine": pytest.approx(used)}
    assert not any(verdict.warnings for verdict in verdicts)
    assert watch.look(evaluated(9, **{rule["figure"]: 0.9 if "above" in rule else 0.0})).warnings


def test_what_was_not_measured_is_absent() -> None:
    watch = guard()
    watch.look(evaluated(0, diversity=0.5))
    assert "diversity" not in watch.look(evaluated(1)).used
    assert "diversity" not in watch.look(evaluated(2, diversity=math.nan)).used


def test_a_rule_of_a_split_leaves_the_others_alone() -> None:
    rule = {"figure": "diversity", "share": 0.6, "split": "train"}
    watch = guard(rules={"watched": None, "diversity": None, "own": rule})
    watch.look(evaluated(0, diversity=0.5))
    assert not watch.look(evaluated(1, diversity=0.0)).used


def test_the_best_is_that_of_the_watched_rewards_where_no_rule_is_broken() -> None:
    watch = guard(rules={"watched": None, "far": {"figure": "distance", "above": 0.2}})
    best = [
        watch.look(evaluated(i, watched, trained=i, distance=distance)).best
        for i, (watched, distance) in enumerate([(0.5, 0.0), (0.6, 0.1), (0.59, 0.1), (0.7, 0.3), (0.61, 0.1)])
    ]
    assert best == [True, True, False, False, True]
    assert watch.best == 4


@pytest.mark.parametrize(("best", "iteration"), [("trained", 2), ("watched", 1), (None, None)])
def test_what_the_best_is_chosen_by(best: str | None, iteration: int | None) -> None:
    watch = guard(best=best, rules={"watched": None})
    for i, watched in enumerate([0.5, 0.6, 0.4]):
        watch.look(evaluated(i, watched, trained=i))
    assert watch.best == iteration


@pytest.mark.parametrize(
    ("kept", "best", "then"),
    [
        (0, 0, [False, True]),  # that of 1 was lost: 0 stays until something is better than it
        (2, 2, [True, True]),  # breaks a rule, as where the rules are other ones than when it was kept
        (7, None, [True, True]),  # not on record
        (None, None, [True, True]),
    ],
)
def test_what_is_on_disk_is_what_has_to_be_bettered(kept: int | None, best: int | None, then: list[bool]) -> None:
    watch = guard(rules={"watched": None, "far": {"figure": "distance", "above": 0.2}})
    for i, (watched, distance) in enumerate([(0.5, 0.0), (0.7, 0.0), (0.9, 0.3)]):
        watch.look(evaluated(i, watched, distance=distance))
    watch.hold_best(kept)
    assert watch.best == best
    assert [watch.look(evaluated(3 + i, watched)).best for i, watched in enumerate([0.4, 0.6])] == then


def test_where_nothing_is_watched_the_trained_reward_says_which_is_best() -> None:
    watch = Guard(GuardConfig(), {"trained": 1.0})
    said = [watch.look(evaluated(i, trained=value)) for i, value in enumerate([0.0, 1.0, 0.5])]
    assert [verdict.best for verdict in said] == [True, True, False]
    assert not any(verdict.warnings for verdict in said)


@pytest.mark.parametrize(
    ("weights", "best"),
    [
        ({"unheard": 0.0, "silent": 1.0}, "watched"),
        ({"silent": 1.0}, "watched"),
        ({"silent": 1.0}, "trained"),
        ({"silent": 1.0, "unheard": 0.0}, "unheard"),
    ],
)
def test_without_any_score_at_first_it_says_that_no_best_checkpoint_is_kept(
    weights: dict[str, float], best: str
) -> None:
    watch = Guard(GuardConfig(best=best), weights)
    first = watch.look(evaluated(0, **dict.fromkeys(weights, math.nan)))
    (warning,) = first.warnings
    assert "so none is kept" in warning.sentence
    assert not watch.look(evaluated(1, **dict.fromkeys(weights, 1.0))).best
    assert watch.best is None


def test_a_watched_reward_without_a_score_leaves_the_choice_to_the_trained_one() -> None:
    watch = Guard(GuardConfig(), {"trained": 1.0, "unheard": 0.0})
    nothing = {"held_out/unheard": np.full(16, math.nan)}
    best = []
    for i, value in enumerate([0.0, 1.0, 0.5]):
        found = evaluated(i, trained=value, unheard=math.nan)
        verdict = watch.look(Evaluation(i, found.figures, {**found.scores, **nothing}))
        best.append(verdict.best)
        assert [warning.rule for warning in verdict.warnings] == [BEST] * (i == 0)
        assert all("that of the highest trained reward" in warning.sentence for warning in verdict.warnings)
        assert "watched" not in verdict.used
    assert best == [True, True, False]
    assert watch.best == 1


def test_one_watched_reward_with_a_score_is_enough_to_choose_by() -> None:
    watch = Guard(GuardConfig(rules={"watched": None}), {"trained": 1.0, "watched": 0.0, "unheard": 0.0})
    for i, watched in enumerate([0.5, 0.6, 0.4]):
        watch.look(evaluated(i, watched, trained=i, unheard=math.nan))
    assert watch.best == 1


def test_a_rule_that_stops_is_named() -> None:
    watch = guard(rules={"diversity": {"stop": True}})
    watch.look(evaluated(0, diversity=0.5))
    assert watch.look(evaluated(1, diversity=0.4)).stop is None
    assert watch.look(evaluated(2, diversity=0.1)).stop == "diversity"


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8))
def test_shown_the_same_again_it_says_the_same(figures: list[tuple[float, float]]) -> None:
    shown = [evaluated(i, watched, diversity=diversity) for i, (watched, diversity) in enumerate(figures)]
    one, other = guard(), guard()
    assert [one.look(each) for each in shown] == [other.look(each) for each in shown]
    assert one.best == other.best


def test_an_evaluation_out_of_the_records() -> None:
    samples = pa.table(
        {
            "split": ["train", "training", "train", "train", "train"],
            "prompt_index": [9, 0, 7, 7, 9],
            "sample_index": [1, 0, 1, 0, 0],
            "mine": pa.array([5.0, 100.0, 3.0, 1.0, math.nan], pa.float32()),
        }
    )
    found = evaluation(4, {"eval/train/mine": 3.0, "eval/train/kl": 0.5, "loss": 1.0}, samples)
    assert found.figures == {"train/mine": 3.0, "train/kl": 0.5}
    assert list(found.scores) == ["train/mine"]
    np.testing.assert_array_equal(found.scores["train/mine"], [1.0, 3.0, math.nan, 5.0])
