"""Settings that would be accepted, and end the run later."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from cluster.config import load_config, load_words
from cluster.errors import ConfigError


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("samplers.request_size=1000000000000", "192 does"),
        ("prompts.samples=1000000000", "images an iteration"),
        ("seed=20000000000000", "'seed'"),
        ("seed=-1", "'seed'"),
        ("learner.betas=[1.5,-2]", "'learner.betas.0'"),
        ("learner.betas=[0.9]", "learner.betas.1"),
        ("policy.variant=''", "'policy.variant'"),
        ("policy.lora_rank=9223372036854775807", "'policy.lora_rank'"),
        ("policy.lora_alpha=9223372036854775807", "'policy.lora_alpha'"),
        ("learner.lr=.inf", "'learner.lr' is inf"),
        ("learner.lr='inf'", "'learner.lr' is inf"),
        ("rewards.shapes_gold.weight='nan'", "'rewards.shapes_gold.weight' is 'nan'"),
        ("rewards.shapes_agreement.weight=.nan", "'rewards.shapes_agreement.weight' is nan"),
        ("rewards.shapes_gold.options={deep: [1, {er: -.inf}]}", "'rewards.shapes_gold.options.deep.1.er' is -inf"),
        ("iterations=100000000000000000000000000", "more than 63"),
        ("policy.lora_targets=[nope]", "'nope'"),
        ("policy.lora_targets=[to_qq]", "to_q"),
        ("policy.steps=5000", "5000"),
        ("policy.device=bogus", "'bogus'"),
        ("policy.device=meta", "'meta'"),
        ("rewards.shapes_gold.options.nope=1", "'nope'"),
        ("rewards.jpeg_compressibility.options.qualty=1", "quality"),
        ("learner.gpus=1.5", "whole GPUs"),
        ("policy.eta=1e-30", "set policy.eta to 0, or to"),
        ("policy.guidance=1e300", "'policy.guidance' is 1e+300"),
        ("rewards.shapes_gold.weight=1e308", "'rewards.shapes_gold.weight' is 1e+308"),
        ("rewards.shapes_gold.weight=-1e308", "'rewards.shapes_gold.weight' is -1e+308"),
        ("samplers.count=1000000", "'samplers.count' is 1000000"),
        ("reward_actors.count=1000000", "'reward_actors.count' is 1000000"),
        ("learner.ranks=1000000", "'learner.ranks' is 1000000"),
        ("learner.rank_timeout=1e300", "'learner.rank_timeout'"),
        ("failures.patience.learn=1e12", "'failures.patience.learn'"),
        ("objective={name: grpo, window: 13}", "objective.window is 13, but objective.step_fraction leaves"),
        ("objective={name: grpo, window: 3, step_fraction: 0.1}", "leaves 1 of the steps with noise to train; set it"),
        ("policy.adapted_steps=13", "policy.adapted_steps is 13, but the chain has 12 steps"),
        ("policy={adapted_steps: 3, noisy_steps: [4, 8]}", "Step 4 (counted from 0) is the first that adds noise"),
        ("objective={name: rwr, temperature: 1e-44}", "'objective.temperature' is 1e-44, outside of"),
        ("objective={pairs: ranking, ties: keep}", "ties does nothing without pairs=consecutive"),
        ("objective={label_temperature: 2}", "label_temperature does nothing without loss=soft"),
        ("objective={reference: pretrained, round_length: 2}", "round_length does nothing without reference=round"),
        ("objective={name: dag_db, flow: {groups: 7}}", "no multiple of groups=7"),
        ("objective={name: dag_db, flow: {betas: [0.9, 1]}}", "flow.betas.1"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert words in str(caught.value)


def test_a_kl_that_no_chain_has_is_not_held() -> None:
    without = ["objective={name: nft}", "policy.solver=dpm_2m"]
    load_config(None, without)
    with pytest.raises(
        ConfigError, match=r"learner\.chain_kl_weight is 0\.1, but no step with an adapter has a density"
    ):
        load_config(None, [*without, "learner.chain_kl_weight=0.1"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("objective.name=ddpo combination.standardise=group", "measures a sample by the others of its prompt"),
        ("objective.name=dpok combination.standardise=group_mean", "measures a sample by the others of its prompt"),
        ("objective={name: rwr, among: group}", "compares samples of the same prompt"),
        ("objective.name=ddpo combination.standardise=batch prompts.per_iteration=1", "the others of its batch"),
    ],
)
def test_a_sample_is_not_measured_by_itself(overrides: str, words: str) -> None:
    alone = ["prompts.samples=1", "samplers.request_size=1"]
    given = [overrides] if overrides.startswith("objective={") else overrides.split()
    with pytest.raises(ConfigError, match=words):
        load_config(None, [*given, *alone])
    load_config(None, ["objective.name=ddpo", *alone])


@pytest.mark.parametrize("settings", ["{name: ddpo, gradient: score, updates: 1}", "{name: awm, updates: 2}"])
def test_who_takes_the_policy_of_the_batch_for_the_samples_wants_todays(settings: str) -> None:
    with pytest.raises(ConfigError, match="takes the policy that a batch finds for the one that drew it"):
        load_config(None, [f"objective={settings}", "samplers.max_staleness=1"])
    load_config(None, [f"objective={settings}"])
    load_config(None, ["objective={name: awm}", "samplers.max_staleness=1"])  # one update: its ratio is 1


def test_half_precision_is_not_compiled_for_a_cpu() -> None:
    half = ["policy.dtype=bfloat16", "policy.device=cpu"]
    with pytest.raises(ConfigError, match=r"policy\.compile on a CPU is for float32 alone"):
        load_config(None, ["policy.compile=true", *half])
    load_config(None, half)


def test_a_reward_whose_tilt_is_the_target_is_not_whitened_either() -> None:
    with pytest.raises(ConfigError, match=r"combination\.whiten to false"):
        load_config(None, ["objective={name: dag_db}", "combination.whiten=true"])


@pytest.mark.parametrize("name", ["prompt", "split", "version", "iteration", "diversity"])
def test_names_of_columns_are_no_names_of_rewards(name: str) -> None:
    with pytest.raises(ConfigError, match="taken by a column or a metric"):
        load_config(None, [f"rewards={{{name}: {{kind: shapes_gold}}, shapes_agreement: {{}}}}"])


@pytest.mark.parametrize(
    "name", ["a\nb", "a/b", "a.b", "../x", "[red]", "a b", "\x1b[2J", "", "-x", "x" * 65, "\u202e"]
)
def test_names_that_are_no_words_are_no_names_of_rewards(tmp_path: Path, name: str) -> None:
    (tmp_path / "run.yaml").write_text(f"rewards: {{{json.dumps(name)}: {{kind: shapes_gold}}}}\n")
    with pytest.raises(ConfigError, match="will not do for columns"):
        load_config(tmp_path / "run.yaml")


def test_a_reward_without_features_measures_no_diversity() -> None:
    with pytest.raises(ConfigError, match="has no image features"):
        load_config(None, ["rewards.shapes_gold.kind=jpeg_compressibility", "evaluation.features=shapes_gold"])


def test_a_reward_with_features_alone_is_not_trained_on() -> None:
    for words in (["rewards.dino.weight=0.5"], ["rewards={mine: {kind: dino}}", "evaluation.features=mine"]):
        with pytest.raises(ConfigError, match=r"rewards\.\w+ has image features and no score.* set its weight to 0"):
            load_config(None, words)
    config = load_config(None, ["rewards.dino.weight=0", "evaluation.features=dino"])
    assert "dino" in config.judges
    assert "dino" not in {*config.scoring, *config.weights}
    assert config.weights.keys() == config.rewards.keys() - {"dino"}


def test_plain_names_of_any_language_are_names_of_rewards() -> None:
    assert "größe-2" in load_config(None, ["rewards.größe-2.kind=shapes_gold"]).rewards


def test_an_absurd_learning_rate_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_config(None, ["learner.lr=1e9"])
        assert "learner.lr is 1e+09" in caplog.text
        caplog.clear()
        load_config(None, ["learner.lr=1e-2"])
    assert not caplog.records


def test_a_prompts_memory_shorter_than_its_batch_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    ddpo = ["objective={name: ddpo}", "prompts.samples=20", "samplers.request_size=20"]
    with caplog.at_level(logging.WARNING):
        load_config(None, ddpo)
        assert "combination.buffer is 16 and a prompt has 20 samples in a batch" in caplog.text
        caplog.clear()
        load_config(None, [*ddpo, "combination.buffer=20"])
        load_config(None, [*ddpo, "combination.standardise=batch"])
    assert not caplog.records


def test_half_precision_and_older_weights_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The learner takes log-probabilities again only under the weights that it has."""
    stale = ["policy.dtype=bfloat16", "samplers.max_staleness=1"]
    with caplog.at_level(logging.WARNING):
        load_config(None, stale)
        assert "keep the rounding of bfloat16" in caplog.text
        caplog.clear()
        load_config(None, stale[:1])
        load_config(None, stale[1:])
        load_config(None, [*stale, "objective={name: refl}", "rewards={shapes_agreement: {}}"])
    assert not caplog.records


def test_prompts_that_the_text_encoder_would_not_read_whole_are_refused_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("a red circle\n" + "a red circle " * 30 + "\n" + "a blue star " * 30 + "\n")
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"prompts.held_out={tmp_path}/p.txt"])
    assert str(caught.value) == (
        "The prompt 'a red circle a red circle a red circle a red circle a red ci...' and 1 more of 3 do not fit into "
        "1 window of the 16 tokens that the model's text encoder reads at once; set policy.prompt_windows=7, or "
        "shorten what is longer."
    )
    load_config(None, [f"prompts.train={tmp_path}/p.txt", "policy.prompt_windows=7"])


def test_a_negative_prompt_is_held_to_the_same_and_to_guidance() -> None:
    with pytest.raises(ConfigError, match=r"set policy\.prompt_windows=2"):
        load_config(None, ["policy.negative_prompt=a red circle and a red circle and a red circle and a red circle"])
    for setting in ("policy.negative_prompt=a red circle", "policy.guidance_rescale=0.7"):
        load_config(None, [setting])
        with pytest.raises(ConfigError, match=r"does nothing where policy\.guidance is 1"):
            load_config(None, [setting, "policy.guidance=1"])


def test_paths_are_absolute_and_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a cat\n")
    config = load_config(None, ["folder=~/runs", "prompts.train=p.txt", "prompts.held_out=~/p.txt"])
    assert config.folder == str(tmp_path / "runs")
    assert (config.prompts.train, config.prompts.held_out) == (str(tmp_path / "p.txt"),) * 2
    assert load_config(None).folder == str(tmp_path / "runs")


def test_a_file_whose_path_holds_an_equals_sign_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "lr=3.yaml").write_text("iterations: 7\n")
    assert load_words([str(tmp_path / "lr=3.yaml"), "seed=2"]).iterations == 7
    assert load_words(["iterations=3"]).iterations == 3
    assert load_words([]).iterations == 12
