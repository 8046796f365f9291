"""The nearest right key, and to which objective a setting belongs."""

from __future__ import annotations

import pytest

from cluster.config import load_config
from cluster.config.sentences import of_rule
from cluster.errors import ConfigError

JUDGE = "rewards.judge.kind=shapes_gold"


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(None, overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "nearest"),
    [
        ([JUDGE, "rewards.judge.wieght=1"], "rewards.judge.weight"),
        (["rewards.clip.wieght=1"], "rewards.clip.weight"),
        (["learner.steps=3"], "policy.steps"),
        (["lr=1e-4"], "learner.lr"),
        (["learnerlr=1e-4"], "learner.lr"),
        (["learner_lr=1e-4"], "learner.lr"),
        (["per_iteration=3"], "prompts.per_iteration"),
        (["objective.name=d3po", "objective.clip_rnge=1"], "objective.clip_range"),
        (["objective.name=dag_db", "objective.flow.lrr=1"], "objective.flow.lr"),
        (["failures.patience.strat=3"], "failures.patience.start"),
    ],
)
def test_the_nearest_key_is_one_that_is_right(overrides: list[str], nearest: str) -> None:
    assert f"did you mean '{nearest}'?" in refusal(*overrides)
    assert "=" in overrides[-1]


@pytest.mark.parametrize(
    ("chosen", "setting", "owner"),
    [
        ("residual_nabla_db", "objective.clip_range", "ppod or d3po"),
        ("d3po", "objective.gamma", "nabla_db"),
        ("ppod", "objective.prior_strength", "residual_nabla_db"),
    ],
)
def test_a_setting_of_another_objective_names_that(chosen: str, setting: str, owner: str) -> None:
    message = refusal(f"objective.name={chosen}", f"{setting}=1")
    assert f"'{setting}' belongs to objective.name=" in message
    assert owner in message
    assert message.endswith(f"this is {chosen}.")
    assert "did you mean" not in message


def test_a_method_that_is_another_one_is_not_suggested() -> None:
    message = refusal("objective.name=ddpq")
    assert "There is no objective 'ddpq'; there are " in message
    assert "d3po" in message
    assert "did you mean" not in message
    assert "did you mean 'residual_nabla_db'?" in refusal("objective.name=residual_nabla-db")


def test_nothing_is_obeyed_that_stands_in_a_name() -> None:
    message = refusal("\x1b[2J[red]x\n=1")
    assert "\x1b" not in message
    assert "\n" not in message
    assert "[red]" in message


def test_a_setting_that_may_be_of_several_types_is_refused_once_by_its_own_name() -> None:
    message = refusal("policy.adapted_steps=0")
    assert message == "The setting 'policy.adapted_steps' is 0: input should be greater than or equal to 1."


@pytest.mark.parametrize("override", ["loggers=wanbd", "loggers=[wanbd]", "loggers=[mlflow, wanbd]"])
def test_a_choice_that_is_none_is_said_of_the_list_that_holds_it(override: str) -> None:
    assert refusal(override) == "The setting 'loggers' holds 'wanbd': input should be 'wandb' or 'mlflow'."


@pytest.mark.parametrize("override", ["policy.noisy_steps=[a, 2]", "rewards.shapes_gold.canaries=[5]"])
def test_any_other_element_keeps_its_place(override: str) -> None:
    assert f"The setting '{override.partition('=')[0]}.0' is " in refusal(override)


def test_what_a_dataset_lacks_has_nothing_to_do_with_the_model() -> None:
    assert refusal("data.split=train") == "The configuration lacks data.path."


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("there is no reward 'clp'; did you mean 'clip'?", "There is no reward 'clp'; did you mean 'clip'?"),
        ("nothing is left.", "Nothing is left."),
        ("rewards.clip.weight is 0", "rewards.clip.weight is 0."),
    ],
)
def test_a_sentence_ends_once(raised: str, said: str) -> None:
    assert of_rule(raised) == said
