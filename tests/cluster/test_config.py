"""The configuration: layers, what a rewards list means, and every refusal in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from cluster.config import Config, load_config
from cluster.errors import ConfigError
from rewards.environments import FOLDER

Make = Callable[..., Config]


def refusal(make_config: Make, *overrides: str) -> str:
    """The one line that a configuration is refused with."""
    with pytest.raises(ConfigError) as caught:
        make_config(*overrides)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    assert "pydantic" not in message.lower()
    return message


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path: Path, base: list[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("iterations: 7\nlearner: {lr: 5e-4, weight_decay: 0}\n")
    config = load_config(path, [*base, "learner.lr=1e-4"])
    assert (config.iterations, config.learner.lr, config.learner.weight_decay) == (7, 1e-4, 0)
    assert config.learner.max_grad_norm == Config.model_fields["learner"].default.max_grad_norm


def test_saved_config_reads_back_equal(tmp_path: Path, make_config: Make) -> None:
    config = make_config(
        "objective.name=d3po",
        "objective.beta=0.3",
        "rewards.jpeg_compressibility.weight=0.5",
        "learner.betas=[0.8,0.9]",
    )
    config.save(tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


def test_saved_config_keeps_a_prompt_file_whose_name_is_not_ascii(tmp_path: Path, make_config: Make) -> None:
    (tmp_path / "prömpts ☃.txt").write_text("a red circle\n", encoding="utf-8")
    config = make_config(f"prompts.train={tmp_path / 'prömpts ☃.txt'}")
    config.save(tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml").prompts.train == config.prompts.train


def test_config_cannot_be_changed(make_config: Make) -> None:
    config = make_config()
    with pytest.raises(ValidationError):
        config.learner.lr = 1.0  # type: ignore[misc]


def test_an_override_of_one_reward_keeps_the_default_ones(make_config: Make) -> None:
    rewards = make_config("rewards.shapes_gold.weight=2").rewards
    assert {name: reward.weight for name, reward in rewards.items()} == {"shapes_agreement": 1.0, "shapes_gold": 2.0}


def test_a_file_that_lists_rewards_replaces_the_default_ones(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("rewards: {jpeg_compressibility: {weight: 2}}\n")
    config = load_config(path)
    assert list(config.rewards) == ["jpeg_compressibility"]
    assert config.evaluation.features is None  # the embedded world's is of a reward that is gone


def test_an_objective_brings_its_own_defaults(make_config: Make) -> None:
    ppod, d3po = make_config().objective, make_config("objective.name=d3po").objective
    assert (ppod.name, ppod.clip, ppod.step_fraction) == ("ppod", "pessimistic", 1.0)
    assert (d3po.name, d3po.pairs, d3po.beta, d3po.step_fraction) == ("d3po", "consecutive", 0.1, 1.0)
    assert make_config("objective.name=d3po", "objective.beta=0.5").objective.pairs == "consecutive"


def test_batch_size_is_prompts_times_samples(make_config: Make) -> None:
    assert make_config().batch_size == 3 * 4
    assert make_config("prompts.per_iteration=2").batch_size == 2 * 4
    assert make_config("prompts.per_iteration=7").batch_size == 7 * 4  # prompts come again, as groups of their own


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("iteration", "iterations"),
        ("learner.lrr", "learner.lr"),
        ("learner.learning_rte", "learner"),
        ("samplers.max_stalness", "samplers.max_staleness"),
        ("sampler.max_staleness", "samplers"),
        ("objective.bta", "objective.beta"),
        ("objective.clip_rnge", "objective.clip_range"),
        ("prompts.per_iteraton", "prompts.per_iteration"),
        ("rewards.shapes_gold.wieght", "rewards.shapes_gold.weight"),
    ],
)
def test_unknown_key_names_the_nearest(make_config: Make, key: str, nearest: str) -> None:
    message = refusal(make_config, f"{key}=1")
    assert repr(key) in message or repr(key.split(".")[0]) in message
    assert f"did you mean '{nearest}" in message


@pytest.mark.parametrize("file", [True, False])
def test_unknown_key_is_refused_wherever_it_is_given(tmp_path: Path, base: list[str], file: bool) -> None:
    (tmp_path / "run.yaml").write_text("learner: {lrr: 1}\n" if file else "{}\n")
    with pytest.raises(ConfigError, match=r"'learner\.lrr'.*'learner\.lr'"):
        load_config(tmp_path / "run.yaml", base if file else [*base, "learner.lrr=1"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["learner.lr=fast"], ["'learner.lr'", "'fast'"]),
        (["iterations=0"], ["'iterations'", "greater than or equal to 1"]),
        (["policy.solver=euler"], ["'policy.solver'", "'ddim'"]),
        (["objective.name=ppo"], ["'ppo'", "'ppod'"]),
        (["objective.clip=soft"], ["'objective.clip'", "'pessimistic'"]),
        (["objective.form=trajectory", "objective.steps_per_update=1"], ["objective", "steps_per_update=null"]),
        (["objective.name=d3po", "objective.clip_range=2"], ["'objective.clip_range'"]),
        (["prompts.samples=1"], ["prompts.samples is 1", "ppod", "at least 2"]),
        (["objective.name=grpo", "objective.keep=4"], ["objective.keep is 4", "4 samples", "leave none out"]),
        (["objective.name=grpo", "objective.limit=divergence", "objective.clip_range=1e-3"], ["limit=clip"]),
        (["objective.name=grpo", "objective.max_divergence=1e-3"], ["limit=divergence"]),
        (["objective.name=grpo", "objective.window_moves=random"], ["window_moves does nothing without window;"]),
        (["objective.name=grpo", "objective.window_every=2"], ["window_every", "25"]),
        (
            ["objective.name=grpo", "objective.window=2", "objective.window_moves=stays", "objective.window_every=2"],
            ["window_every does nothing without window_moves=forward or random"],
        ),
        (
            ["objective.name=ddpo", "objective.gradient=score", "objective.updates=1", "objective.clip_range=1e-3"],
            ["clip_range does nothing without gradient=importance", "0.0001"],
        ),
        (["objective.name=dpok", "objective.kl_weight=0", "objective.divergence=exact"], ["divergence", "kl_weight"]),
        (["objective.name=rwr", "objective.best=0.5"], ["best does nothing without weights=best"]),
        (["objective.name=rwr", "objective.weights=best", "objective.temperature=1"], ["weights=softmax"]),
        (["rewards.shapes_goldd.weight=1"], ["'shapes_goldd'", "'shapes_gold'"]),
        (["rewards.zzz.weight=1"], ["'zzz'", "shapes_agreement", "jpeg_compressibility"]),
        (["rewards.shapes_agreement.weight=0"], ["weight 0"]),
        (["evaluation.features=jpeg_compressibility"], ["'jpeg_compressibility'", "not among the rewards"]),
        (["samplers.request_size=5"], ["request_size=5", "12 samples", "4 does"]),
        (["samplers.request_size=48"], ["request_size=48", "12 samples", "12 does"]),
        (["learner.lr"], ["'learner.lr'", "key=value"]),
        (["learner.betas=[0.9"], ["learner.betas"]),
        (["name=${nowhere}"], ["nowhere"]),
        (["policy=3"], ["'policy'"]),
        (["learner.lr.x=3"], ["learner.lr"]),
        (["policy.model=/no/such/model"], ["/no/such/model", "policy.model"]),
        (["prompts.held_out=/no/such.txt"], ["/no/such.txt"]),
        (
            ["objective.likelihood=ode", "objective.kl_weight=0", "samplers.max_staleness=1"],
            ["samplers.max_staleness is 1", "ppod", "set it to 0"],
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence(make_config: Make, overrides: list[str], words: list[str]) -> None:
    message = refusal(make_config, *overrides)
    assert all(word in message for word in words), message


def test_a_saved_config_says_of_all_settings_what_they_are_and_loads(make_config: Make, tmp_path: Path) -> None:
    """Also of those that do nothing beside the others."""
    config = make_config("objective.name=grpo", "objective.limit=divergence", "objective.keep=2")
    config.save(tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config


def test_the_suggested_request_size_works(make_config: Make) -> None:
    message = refusal(make_config, "samplers.request_size=7")
    suggestion = message.split("; ")[-1].split(" ")[0]
    assert make_config(f"samplers.request_size={suggestion}").samplers.request_size == 6


@pytest.mark.parametrize(
    "content", [b"- a\n- list\n", b"learner: {lr: [\n", b"name: \xff\xfe\n", b"3\n", b"a: 1\na: 2\n", b"a: ${\n", None]
)
def test_an_unreadable_config_file_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "broken.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "broken.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_config_file_is_the_defaults(tmp_path: Path, base: list[str]) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert load_config(tmp_path / "empty.yaml", base) == load_config(None, base)


def test_a_reward_without_gradient_is_refused_by_name_where_one_is_needed(make_config: Make) -> None:
    message = refusal(make_config, "objective.name=residual_nabla_db", "rewards.jpeg_compressibility.weight=0.5")
    assert message.startswith("rewards.jpeg_compressibility has no gradient")
    assert "residual_nabla_db" in message
    make_config("objective.name=residual_nabla_db", "rewards.jpeg_compressibility.weight=0")
    make_config("objective.name=residual_db", "rewards.jpeg_compressibility.weight=0.5")  # scores are enough


def test_several_instances_of_a_kind_have_names_and_options_of_their_own(make_config: Make) -> None:
    config = make_config(
        "rewards.coarse={kind: jpeg_compressibility, options: {quality: 10}}",
        "rewards.fine={kind: jpeg_compressibility, options: {quality: 95}}",
    )
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert config.makers["coarse"]().score(image, [""]) > config.makers["fine"]().score(image, [""])
    assert config.environments == {None: ("shapes_agreement", "shapes_gold", "coarse", "fine")}


def test_rewards_are_grouped_by_the_environment_of_their_class_or_of_the_config(
    make_config: Make, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("a-package==1.0\n")
    config = make_config(
        "rewards.image_reward.weight=1",
        "rewards.hpsv2={weight: 1, environment: " + sys.executable + "}",
        "rewards.jpeg_compressibility.environment=image_reward",
        f"rewards.gold={{kind: shapes_gold, environment: {tmp_path}/mine.txt}}",
    )
    assert config.environments == {
        None: ("shapes_agreement", "shapes_gold"),
        str(FOLDER / "image_reward.txt"): ("image_reward", "jpeg_compressibility"),
        sys.executable: ("hpsv2",),
        str(tmp_path / "mine.txt"): ("gold",),
    }


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rewards.mine.kind=shapes_golden", ["'shapes_golden'", "'shapes_gold'"]),
        ("rewards.mine.kind=no_such_module:Mine", ["no_such_module", "PYTHONPATH"]),
        ("rewards.mine.kind=pathlib:Path", ["'pathlib:Path' is not a reward"]),
        ("rewards.mine.kind=grpc://somewhere", ["'grpc://somewhere'", "'somewhere' is not an address", "host:port"]),
        ("rewards.mine.kind=grpcs://host:70000", ["'host:70000' is not an address"]),
        ("rewards.shapes_gold.environment=image_rewards", ["'image_rewards'", "image_reward", "interpreter"]),
        ("rewards.shapes_gold.environment=/no/such.txt", ["'/no/such.txt'", "requirements file"]),
        ("rewards.shapes_gold.environment=/etc", ["'/etc'"]),
    ],
)
def test_rewards_and_environments_that_are_not_there_are_refused(
    make_config: Make, override: str, words: list[str]
) -> None:
    message = refusal(make_config, override)
    assert all(word in message for word in words), message


def test_prompts_that_a_weighted_reward_cannot_judge_are_refused_wherever_they_are(
    make_config: Make, tmp_path: Path
) -> None:
    quoted, mixed = tmp_path / "quoted.txt", tmp_path / "mixed.txt"
    quoted.write_text('a "stop" sign\n')
    mixed.write_text('a "stop" sign\na red circle\n')
    for key, other in (("train", "held_out"), ("held_out", "train")):
        given = (f"prompts.{key}={mixed}", f"prompts.{other}={quoted}")
        message = refusal(make_config, "rewards.ocr.weight=1", *given)
        assert message.startswith(f"The reward 'ocr' cannot judge the prompt 'a red circle' of prompts.{key}: it quo")
        make_config("rewards.ocr.weight=0", *given)  # watched, it says NaN
    make_config("rewards.ocr.weight=1", f"prompts.train={quoted}", f"prompts.held_out={quoted}")


@pytest.mark.parametrize("name", ["residual_nabla_db", "residual_db"])
def test_the_learner_cannot_hold_a_reward_of_another_environment(make_config: Make, name: str) -> None:
    chosen = (f"objective.name={name}", "rewards.image_reward.weight=0.5")
    message = refusal(make_config, *chosen)
    assert message.startswith("rewards.image_reward lives in an environment of its own")
    assert message.endswith("set reward_actors.gradients=actors.")
    make_config(*chosen, "reward_actors.gradients=actors")
    make_config(*chosen, "rewards.image_reward.weight=0")  # watched by the reward actors alone
    make_config("rewards.image_reward.weight=0.5")  # the default objective only needs scores


def test_rewards_are_standardised_unless_the_objective_tilts_by_them(make_config: Make) -> None:
    assert make_config().standardise == "run"
    assert make_config("combination.standardise=nothing").standardise == "nothing"
    assert make_config("objective.name=residual_nabla_db").standardise == "nothing"
    for by in ("run", "group", "prompt"):
        message = refusal(make_config, "objective.name=residual_nabla_db", f"combination.standardise={by}")
        assert "leave combination.standardise null" in message


def test_a_tracker_that_could_never_know_enough_is_refused(make_config: Make) -> None:
    tracker = ("combination.standardise=prompt", "combination.buffer=8")
    assert make_config(*tracker, "combination.min_count=8").standardise == "prompt"
    assert "combination.min_count is 9" in refusal(make_config, *tracker, "combination.min_count=9")
    assert make_config("combination.buffer=8").standardise == "run"  # where there is no tracker, nothing is wrong


@pytest.mark.parametrize(
    "name",
    [
        "ppod",
        "d3po",
        "residual_nabla_db",
        "residual_nabla_db_release",
        "nabla_db",
        "residual_db",
        "dag_db",
        "refl",
        "draft",
        "draft_lv",
        "alignprop",
        "drtune",
    ],
)
def test_every_objective_can_be_chosen_by_its_name(make_config: Make, tmp_path: Path, name: str) -> None:
    config = make_config(f"objective.name={name}")
    assert config.objective.name == name
    config.save(tmp_path / "saved.yaml")
    assert load_config(tmp_path / "saved.yaml") == config
