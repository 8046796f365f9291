"""The panels of a run: every metric that has changed has one, whatever it is called; a constant has none."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from cluster.pages.panels import LEARNING, MACHINERY, OUTCOME, Panel, constants, label, over_decades, panels


def series(*names: str, value: float = 1.0) -> dict[str, list[tuple[int, float]]]:
    return {name: [(1, value), (2, 2 * value)] for name in names}


def by_title(found: list[Panel]) -> dict[str, list[str]]:
    return {panel.title: panel.names for panel in found}


def test_a_reward_of_ones_own_has_a_panel_with_training_and_every_split() -> None:
    own = ("score/my_own", "eval/train/my_own", "eval/held_out/my_own", "eval/elsewhere/my_own")
    found = panels(series("reward/mean", *own, "score/other"))
    assert by_title(found)["my_own"] == list(own)
    assert [panel.title for panel in found] == ["Combined reward of the training samples", "my_own", "other"]
    assert {panel.part for panel in found} == {OUTCOME}


def test_metrics_that_nothing_here_knows_are_drawn_by_their_group() -> None:
    found = panels(series("loss", "new/a", "new/b", "entropy"))
    assert [panel.names for panel in found] == [["loss"], ["new/a", "new/b"], ["entropy"]]


def test_what_people_answered_has_a_panel() -> None:
    (panel,) = panels(series("people/chosen", "people/ties", "people/both_bad"))
    assert (panel.part, panel.title, panel.unit) == (LEARNING, "Answers of people", "pairs")


def test_learning_and_machinery_have_panels_too() -> None:
    names = ("lr", "grad_norm", "loss", "dropped", "staleness", "time/sample", "sampler/sampler-0/version", "queue/a/b")
    parts = {name: panel.part for panel in panels(series(*names)) for name in panel.names}
    assert {name for name, part in parts.items() if part == LEARNING} == {"lr", "grad_norm", "loss"}
    assert {name for name, part in parts.items() if part == MACHINERY} == set(names) - {"lr", "grad_norm", "loss"}


def test_features_and_divergences_are_panels_apart_from_the_rewards() -> None:
    found = panels(series("eval/train/diversity", "eval/train/distance", "eval/train/gold", "eval/train/kl"))
    assert [panel.names for panel in found] == [
        ["eval/train/gold"],
        ["eval/train/diversity"],
        ["eval/train/distance"],
        ["eval/train/kl"],
    ]


def test_constants_have_no_panel_and_their_value_is_said() -> None:
    flat = {"lr": [(1, 1e-3), (2, 1e-3), (3, 1e-3)], "once": [(1, 5.0)], "samples": [(1, 8.0), (2, 8.0)]}
    found = panels(flat | series("loss", "updates"))
    assert [panel.names for panel in found] == [["loss"], ["updates"]]
    assert constants(flat | series("loss", "updates")) == {"lr": 1e-3, "once": 5.0, "samples": 8.0}
    assert panels({"lost": [(1, math.nan), (2, math.nan)]}) == []
    assert panels({}) == []


def test_a_split_that_stays_is_drawn_beside_one_that_moves() -> None:
    flat = {"eval/train/gold": [(0, 0.5), (1, 0.5)]}
    assert panels(flat | series("eval/held_out/gold"))[0].names == ["eval/train/gold", "eval/held_out/gold"]


@given(st.sets(st.text(min_size=1, max_size=12).map(lambda text: f"score/{text}"), max_size=5))
def test_every_name_finds_exactly_one_panel(names: set[str]) -> None:
    found = panels(series(*names))
    assert sorted(name for panel in found for name in panel.names) == sorted(names)


def test_what_is_positive_by_nature_may_be_logarithmic_and_scores_may_not() -> None:
    assert all(over_decades([name]) for name in ("lr", "loss", "grad_norm", "kl/chain", "kl", "eval/train/kl"))
    assert not any(over_decades([name]) for name in ("reward/mean", "reward/std", "score/loss", "eval/train/a", "a"))
    assert not over_decades(["loss", "score/a"])


def test_curves_are_called_by_what_tells_them_apart() -> None:
    assert [label(name) for name in ("score/a", "eval/held_out/a", "clip/winner", "loss")] == [
        "training",
        "evaluation, held out",
        "winner",
        "loss",
    ]
