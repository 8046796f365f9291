"""What of the guard and of canaries is refused before a run, and what stands where nothing was said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.config import Config, ConfigError
from cluster.config.guard import DEFAULTS

Make = Callable[..., Config]


def test_two_rules_stand_without_being_named(make_config: Make) -> None:
    rules = make_config("guard.rules.mine={figure: shapes_gold, falls: 0.1}").guard.in_force  # type: ignore[union-attr]
    assert list(rules) == [*DEFAULTS, "mine"]
    assert rules["watched"].limits == {"errors": 3}


def test_a_rule_is_changed_or_taken_away(make_config: Make) -> None:
    guard = make_config("guard.rules.watched=null", "guard.rules.diversity.stop=true").guard
    assert guard is not None
    assert list(guard.in_force) == ["diversity"]
    assert guard.in_force["diversity"].limits == {"share": 0.6}
    assert guard.in_force["diversity"].stop


def test_no_guard(make_config: Make) -> None:
    assert make_config("guard=null").guard is None


def test_what_is_saved_is_read_back(make_config: Make, tmp_path: Path) -> None:
    from cluster.config import read_config

    config = make_config("guard.rules.watched=null", "guard.rules.mine={figure: distance, above: 0.2, stop: true}")
    config.save(tmp_path / "saved.yaml")
    assert read_config(tmp_path / "saved.yaml") == config


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("guard.best=shapes_god", "guard.best is 'shapes_god'; did you mean 'shapes_gold'?"),
        ("guard.rules.a={figure: divers, share: 0.5}", "guard.rules.a.figure is 'divers'; did you mean 'diversity'?"),
        ("guard.rules.a={figure: kl}", "guard.rules.a has no limit"),
        ("guard.rules.a={figure: kl, errors: 2}", "guard.rules.a.errors is for rewards, and kl has no standard error"),
        ("guard.rules.a={figure: kl, share: 0.5}", "guard.rules.a.share can never act: kl is 0 before training"),
        ("guard.rules.a={figure: distance, falls: 1}", "guard.rules.a.falls can never act: distance is 0"),
        ("guard.rules.a={figure: kl, above: 2, split: test}", "the splits are train, held_out, train_everywhere"),
        ("guard.rules={'a b': {figure: kl, above: 2}}", "has no plain name"),
        ("guard.rules.a={figure: kl, above: -1}", "'guard.rules.a.above' is -1"),
        ("guard.rules.a={figur: kl}", "guard.rules.a.figur"),
        ("guard.rules=3", "'guard.rules' is 3"),
        ("rewards.shapes_gold.canaries=[{picture: none.png, prompt: a, score: 1}]", "none.png cannot be read"),
        ("rewards.shapes_gold.canaries=[{picture: none.png, prompt: a}]", "score"),
    ],
)
def test_what_cannot_work_is_refused(make_config: Make, setting: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_config(setting)
    assert said in str(refused.value)


def test_a_rule_of_held_out_prompts_needs_some(make_config: Make) -> None:
    with pytest.raises(ConfigError, match=r"guard\.rules\.watched\.split is held_out, but there are no"):
        make_config("prompts.held_out=null", "guard.rules.watched.split=held_out")


@pytest.mark.parametrize(
    ("rewards", "name"),
    [("rewards.dino.weight=0", "dino"), ("rewards={people: {}, shapes_agreement: {weight: 0}}", "people")],
)
def test_what_gives_no_score_in_evaluations_cannot_be_watched(make_config: Make, rewards: str, name: str) -> None:
    words = (rewards, "prompts.samples=2", "samplers.request_size=2")
    make_config(*words)
    for setting in (f"guard.best={name}", f"guard.rules.a={{figure: {name}, falls: 1}}"):
        with pytest.raises(ConfigError, match=f"is '{name}', which gives no scores in evaluations; there are shapes_a"):
            make_config(*words, setting)
