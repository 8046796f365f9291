"""The figure of a run: every metric that tells what was learned has a panel, whatever it is called."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.records.curves import draw, panels


def series(*names: str, value: float = 1.0) -> dict[str, list[tuple[int, float]]]:
    return {name: [(1, value), (2, 2 * value)] for name in names}


def test_a_reward_of_ones_own_has_a_panel_with_training_and_every_split() -> None:
    own = ("score/my_own", "eval/train/my_own", "eval/held_out/my_own", "eval/elsewhere/my_own")
    found = panels(series("reward/mean", *own, "score/other"))
    assert found["my_own", "score"] == list(own)
    assert found["other", "score"] == ["score/other"]
    assert list(found)[:3] == [
        ("Combined reward of the training samples", "as the learner gets it"),
        ("my_own", "score"),
        ("other", "score"),
    ]


def test_metrics_that_nothing_here_knows_are_drawn_by_their_group() -> None:
    found = panels(series("loss", "new/a", "new/b", "entropy"))
    assert list(found.values()) == [["loss"], ["new/a", "new/b"], ["entropy"]]


def test_features_are_panels_apart_from_the_rewards() -> None:
    found = panels(series("eval/train/diversity", "eval/train/distance", "eval/train/gold"))
    assert [title for title, _ in found] == ["gold", "Diversity within a prompt", "Distance from the pretrained model"]


def test_what_the_machinery_does_and_what_was_never_measured_is_left_out() -> None:
    machinery = ("sampler/sampler-0/images", "queue/a+b/waiting", "restarts/sampler", "samples", "lr", "busy/learner")
    assert panels(series(*machinery)) == {}
    assert panels(series("score/lost", value=math.nan)) == {}
    assert panels({}) == {}
    assert draw({}) is None


def test_shares_are_drawn_where_there_are_several() -> None:
    assert panels(series("share/a")) == {}
    assert list(panels(series("share/a", "share/b")).values()) == [["share/a", "share/b"]]


@given(st.sets(st.text(min_size=1, max_size=12).map(lambda text: f"score/{text}"), max_size=5))
def test_every_name_finds_exactly_one_panel(names: set[str]) -> None:
    found = panels(series(*names))
    assert sorted(name for panel in found.values() for name in panel) == sorted(names)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "name",
    ["$x^2$", "$", "a$b", r"\frac", "[bold]x[/]", "<b>", "_hidden", "x" * 500, "\x1b[31m", "a\nb", "猫", "%s", "{0}"],
)
def test_names_are_drawn_as_they_are(name: str) -> None:
    data = draw(series(f"score/{name}", f"eval/train/{name}"))
    flat = draw({f"score/{name}": [(1, 0.0), (2, 0.0)], f"eval/train/{name}": [(1, 0.0), (2, 0.0)]})
    assert data is not None
    assert flat is not None
    assert data != flat  # the curves are there, and not the axes alone
    other = draw(series("score/b", "eval/train/b"))
    assert data != other  # and so is the name


def test_one_iteration_is_a_point_that_can_be_seen() -> None:
    one, none = ({"loss": [(1, value)], "grad_norm": [(1, 1.0)]} for value in (1.0, math.nan))
    assert draw(one) != draw(none)
