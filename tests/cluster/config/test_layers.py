"""What the embedded world's file lies beneath, and what of it gets into a run: all of it, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.config import Config, load_config
from cluster.config.layers import EMBEDDED, merge, stack
from cluster.errors import ConfigError
from shapes import PIPELINES

SECOND = EMBEDDED.with_name("shapes_second.yaml")
OTHER = {"policy": {"model": "org/other"}}


def write(folder: Path, text: str) -> Path:
    (folder / "run.yaml").write_text(text)
    return folder / "run.yaml"


@pytest.fixture
def shortest(tmp_path: Path, tiny_pipeline: Path) -> str:
    """The shortest file of a run of one's own."""
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    return (
        f"policy: {{model: {tiny_pipeline}}}\n"
        f"prompts: {{train: {tmp_path}/prompts.txt}}\n"
        "rewards: {jpeg_compressibility: {}}\n"
    )


@pytest.mark.parametrize("overrides", [["seed=1"], ["policy.model=shapes"], ["policy.steps=12"]])
def test_the_embedded_world_is_what_its_file_says(overrides: list[str]) -> None:
    config = load_config(None, overrides).model_dump()
    for section, settings in yaml.safe_load(EMBEDDED.read_text()).items():
        if section == "rewards":
            assert {name: reward["weight"] for name, reward in config[section].items()} == {
                name: reward["weight"] for name, reward in settings.items()
            }
        elif isinstance(settings, dict):
            assert {name: config[section][name] for name in settings} == settings
        else:
            assert config[section] == settings


def test_the_twin_of_flow_matching_lies_on_the_embedded_worlds_file() -> None:
    plain, twin = (load_config(None, [f"policy.model={name}"]) for name in ("shapes", "shapes_flow"))
    assert [config.pipeline for config in (plain, twin)] == [str(PIPELINES[name]) for name in ("shapes", "shapes_flow")]
    assert twin == plain.model_copy(update={"policy": plain.policy.model_copy(update={"model": "shapes_flow"})})


@pytest.mark.parametrize("given", [["policy.model=shapes_second"], []], ids=["override", "file"])
def test_the_second_world_has_its_own_prompts_and_judges_and_the_firsts_numbers(given: list[str]) -> None:
    first, second = load_config(None), load_config(None if given else SECOND, given)
    options = {"shapes_agreement": {"checkpoint": "second"}, "shapes_gold": {"world": "second"}}
    assert {name: reward.options for name, reward in second.rewards.items()} == options
    assert {name: reward.weight for name, reward in second.rewards.items()} == {
        name: reward.weight for name, reward in first.rewards.items()
    }
    assert (second.prompts.train, second.prompts.held_out) == ("shapes:second_teachable", "shapes:second_held_out")
    same = first.model_copy(
        update={
            "policy": first.policy.model_copy(update={"model": "shapes_second"}),
            "rewards": second.rewards,
            "prompts": first.prompts.model_copy(
                update={"train": second.prompts.train, "held_out": second.prompts.held_out}
            ),
        }
    )
    assert second == same


def test_what_a_user_sets_counts_above_the_second_worlds_file() -> None:
    config = load_config(None, ["policy.model=shapes_second", "prompts.train=shapes:second_held_out", "policy.steps=7"])
    assert (config.prompts.train, config.prompts.held_out) == ("shapes:second_held_out", "shapes:second_held_out")
    assert config.policy.steps == 7
    assert load_config(None, ["policy.model=shapes_second", "objective.name=d3po"]).objective.name == "d3po"


@pytest.mark.parametrize("name", PIPELINES)
def test_the_embedded_models_names_are_not_taken_for_folders(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_config(None, [f"policy.model={name}"]).pipeline == str(PIPELINES[name])


def test_the_embedded_world_has_the_numbers_that_its_page_measured() -> None:
    config = load_config(None)
    objective, learner = config.objective, config.learner
    policy = config.policy
    assert (config.iterations, config.batch_size, config.samplers.request_size) == (12, 192, 96)
    assert (policy.steps, policy.guidance, policy.eta, policy.lora_rank, policy.lora_alpha) == (12, 2.0, None, 8, 8)
    assert (objective.beta, objective.clip_range, objective.kl_weight, objective.min_gap) == (100, 1e-3, 0.3, 0.7)
    assert (objective.step_fraction, objective.steps_per_update) == (0.5, 2)
    assert (objective.pairs, objective.clip) == ("all_pairs", "pessimistic")
    assert (learner.lr, learner.lr_schedule, learner.micro_batch, learner.weight_decay) == (1e-3, "constant", 384, 1e-4)
    assert (config.evaluation.every, config.evaluation.samples, config.evaluation.held_out_samples) == (6, 32, 9)
    assert (config.prompts.train, config.prompts.held_out) == ("shapes:teachable", "shapes:held_out")


def test_the_shortest_file_of_ones_own_has_nothing_of_the_embedded_world(tmp_path: Path, shortest: str) -> None:
    config = load_config(write(tmp_path, shortest))
    assert list(config.rewards) == ["jpeg_compressibility"]
    assert (config.prompts.held_out, config.evaluation.features) == (None, None)
    bare = Config.model_validate(yaml.safe_load(shortest))
    assert config == bare  # every other number is its class's


def test_class_defaults_are_the_literatures(tmp_path: Path, shortest: str) -> None:
    config = load_config(write(tmp_path, shortest))
    assert (config.policy.steps, config.policy.guidance, config.policy.eta) == (50, 5.0, None)
    assert (config.learner.lr, config.learner.lr_schedule) == (3e-4, "constant")
    assert (config.objective.clip_range, config.objective.step_fraction) == (1e-4, 1.0)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("policy: {model: MODEL}", ["rewards", "prompts.train", "one prompt a line"]),
        ("policy: {model: MODEL}\nprompts: {samples: 4}", ["rewards", "prompts.train"]),
        ("policy: {model: MODEL}\nrewards: {jpeg_compressibility: {}}", ["lacks prompts.train"]),
        ("policy: {model: MODEL}\nprompts: {train: shapes:hard}", ["lacks rewards", "kind: 'my_module:MyReward'"]),
    ],
)
def test_what_a_model_of_ones_own_lacks_is_said(
    tmp_path: Path, tiny_pipeline: Path, lines: str, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, lines.replace("MODEL", str(tiny_pipeline))))
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("given", ["file", "override"])
def test_settings_of_another_objective_do_not_apply(tmp_path: Path, given: str) -> None:
    path = write(tmp_path, "objective: {name: d3po}\n") if given == "file" else None
    objective = load_config(path, [] if path else ["objective.name=d3po"]).objective
    assert (objective.beta, objective.clip_range, objective.prompts_per_update) == (0.1, 0.1, 1)
    assert load_config(path, ["objective.name=ppod"]).objective.beta == 100


def weights(*overrides: str, path: Path | None = None) -> dict[str, float]:
    return {name: reward.weight for name, reward in load_config(path, overrides).rewards.items()}


def test_a_new_reward_is_trained_on_alone_unless_the_others_are_named_as_well() -> None:
    mine = "rewards.mine.kind=jpeg_compressibility"
    assert weights(mine) == {"shapes_agreement": 0, "shapes_gold": 0, "mine": 1}
    assert weights(mine, "rewards.mine.weight=0.5") == {"shapes_agreement": 0, "shapes_gold": 0, "mine": 0.5}
    assert weights(mine, "rewards.mine.weight=0") == {"shapes_agreement": 1, "shapes_gold": 0, "mine": 0}
    assert weights(mine, "rewards.shapes_agreement.weight=2") == {"shapes_agreement": 2, "shapes_gold": 0, "mine": 1}
    assert weights(mine, "rewards.shapes_agreement.options={}") == {"shapes_agreement": 1, "shapes_gold": 0, "mine": 1}


def test_an_override_of_a_listed_reward_changes_just_that(tmp_path: Path) -> None:
    assert weights("rewards.shapes_gold.weight=2") == {"shapes_agreement": 1, "shapes_gold": 2}
    path = write(tmp_path, "rewards: {shapes_gold: {}, jpeg_compressibility: {weight: 0.1}}\n")
    assert weights("rewards.mine.kind=shapes_agreement", path=path) == {
        "shapes_gold": 1, "jpeg_compressibility": 0.1, "mine": 1,
    }  # fmt: skip


def test_features_of_a_reward_that_is_gone_fall_away_and_others_stay(tmp_path: Path) -> None:
    path = write(tmp_path, "rewards: {shapes_gold: {}}\n")
    assert load_config(path).evaluation.features is None
    assert load_config(path, ["rewards.shapes_agreement.weight=0"]).evaluation.features == "shapes_agreement"
    assert load_config(None, ["rewards.mine.kind=shapes_gold"]).evaluation.features == "shapes_agreement"
    with pytest.raises(ConfigError, match="not among the rewards"):
        load_config(path, ["evaluation.features=shapes_agreement"])


@pytest.mark.parametrize("name", ["prompts.held_out", "evaluation.features"])
def test_held_out_prompts_and_features_can_be_none(name: str) -> None:
    section, key = name.split(".")
    assert getattr(getattr(load_config(None, [f"{name}=null"]), section), key) is None


def test_nothing_of_the_embedded_file_is_beneath_another_model() -> None:
    assert stack(OTHER, lists_rewards=False) == {"objective": {"name": "ppod"}, **OTHER}
    assert stack({"objective": [1], "policy": 3}, lists_rewards=False)["prompts"]["train"] == "shapes:teachable"


def test_merging_changes_neither_side() -> None:
    below, above = {"a": {"b": 1, "c": [1]}}, {"a": {"b": {"d": 2}}, "e": [3]}
    assert merge(below, above) == {"a": {"b": {"d": 2}, "c": [1]}, "e": [3]}
    assert (below, above) == ({"a": {"b": 1, "c": [1]}}, {"a": {"b": {"d": 2}}, "e": [3]})


@pytest.mark.parametrize("text", ["[]", "0", "false", "''", "[a]", "text"])
def test_a_file_that_is_no_mapping_is_refused_although_it_may_be_empty(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="is not a mapping of settings"):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize("text", ["", "# nothing is set\n", "{}", "---\n"])
def test_a_file_that_sets_nothing_is_the_embedded_world(tmp_path: Path, text: str) -> None:
    assert load_config(write(tmp_path, text)) == load_config(None)
