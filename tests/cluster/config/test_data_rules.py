"""What cannot work of a dataset is refused before anything starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.config import Config
from cluster.errors import ConfigError
from cluster.records.rundir import RunDirectory
from learner.advantages import Advantages
from learner.standardise import Standardise
from rewards.people.pick_a_pic import Pair, encode, write

Make = Callable[..., Config]
PICTURE = encode(np.zeros((4, 4, 3), np.uint8))


@pytest.fixture
def make(make_config: Make, tmp_path: Path) -> Make:
    write(tmp_path / "data" / "a.parquet", [Pair("a", (PICTURE, PICTURE), 1.0)] * 10)
    return lambda *overrides: make_config(
        "objective.name=rwr", f"data.path={tmp_path}/data", "data.pairs=4", *overrides
    )


def test_groups_are_pairs_and_prompts_are_of_evaluations_alone(make: Make) -> None:
    config = make("prompts.samples=1", "objective.among=group", "prompts.per_iteration=3")
    assert (config.prompts_per_iteration, config.samples_per_prompt, config.batch_size) == (4, 2, 8)
    assert config.weights == {"label": 1.0}
    assert make("data.labels=rewards").weights == {"shapes_agreement": 1.0, "shapes_gold": 0.0}


def test_where_people_judge_no_reward_needs_a_weight(make: Make) -> None:
    make("rewards.shapes_agreement.weight=0")
    with pytest.raises(ConfigError, match="Every reward has weight 0"):
        make("rewards.shapes_agreement.weight=0", "data.labels=rewards")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("objective={name: ppod}", "ppod, as it is set, trains on what the policy itself draws"),
        (
            "objective={name: ppod, likelihood: ode, kl_weight: 0, steps_per_update: null}",
            "ppod, as it is set, trains on what",
        ),
        ("objective={name: draft}", "draft, as it is set, trains on what"),
        ("objective={name: awm, updates: 2}", "awm, as it is set, trains on what"),
        ("samplers.max_staleness=1", "set it to 0, and data.ahead to how far ahead"),
        ("learner.chain_kl_weight=0.1", "nobody goes a chain to the pictures of a dataset"),
        ("rewards.label={kind: shapes_gold, weight: 0}", "a reward is called 'label'"),
        ("samplers.request_size=1", "cuts a pair of pictures in two"),
        ("samplers.request_size=6", "does not divide the 8 samples of an iteration; 4 does"),
        ("data.path=/nowhere/at/all", "there is no dataset /nowhere/at/all"),
        ("data.split=dev", "no Parquet file of the split 'dev'"),
        ("data.checksum=abc", "is not what the run began with (data.checksum)"),
        ("data.pears=3", "pairs"),
        ("data.max_corrupt=1.5", "max_corrupt"),
    ],
)
def test_what_a_dataset_cannot_do_is_refused_in_a_sentence(make: Make, override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(override)
    assert words.lower() in str(caught.value).lower()


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("{name: kto}", "of which kto, as it is set, learns nothing; set it to drop."),
        ("{name: mapo}", "of which mapo, as it is set, learns nothing; set it to drop."),
        ("{name: sft}", "of which sft, as it is set, learns nothing; set it to drop."),
        ("{name: diffusion_dpo}", "set it to drop, or objective.ties to soft."),
    ],
)
def test_ties_are_not_kept_for_who_learns_nothing_of_them(make: Make, objective: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(f"objective={objective}", "data.ties=soft")
    assert str(caught.value).endswith(words)
    make("objective={name: diffusion_dpo, ties: soft}", "data.ties=soft")
    make("data.ties=soft")  # rwr weighs them


@pytest.mark.parametrize(
    ("objective", "most", "words"),
    [
        ("diffusion_dpo", 2, "chose and what they did not are 2 apart once they are standardised, so diffusion_dpo"),
        ("mapo", 2, "are 2 apart once they are standardised, so mapo would learn nothing; set it lower."),
        ("sft", 2, "are 2 apart once they are standardised"),
        ("kto", 1, "are 1 from objective.threshold once they are standardised, so kto would learn nothing"),
    ],
)
def test_a_gap_that_no_label_reaches_is_refused(make: Make, objective: str, most: int, words: str) -> None:
    make(f"objective={{name: {objective}, min_gap: {most - 0.01}}}")
    make(f"objective={{name: {objective}, min_gap: {most}}}", "data.labels=rewards")
    with pytest.raises(ConfigError) as caught:
        make(f"objective={{name: {objective}, min_gap: {most}}}")
    assert str(caught.value).startswith(f"objective.min_gap is {most}, but what people ")
    assert words in str(caught.value)


def test_labels_as_they_are_differ_by_one(make: Make) -> None:
    raw = "combination.standardise=nothing"
    make("objective={name: diffusion_dpo, min_gap: 0.99}", raw)
    with pytest.raises(ConfigError, match="are 1 apart, so diffusion_dpo"):
        make("objective={name: diffusion_dpo, min_gap: 1}", raw)
    make("objective={name: kto, min_gap: 0.4, threshold: 0.5}", raw)
    with pytest.raises(ConfigError, match=r"are 0\.5 from objective\.threshold, so kto"):
        make("objective={name: kto, min_gap: 0.5, threshold: 0.5}", raw)


@pytest.mark.parametrize("standardise", ["run", "batch", "group", "group_mean"])
def test_standardised_labels_are_two_apart(standardise: Standardise) -> None:
    scores, groups = np.tile([1.0, 0.0], 4).astype(np.float32), np.repeat(np.arange(4), 2)
    found, _ = Advantages({"label": 1.0}, standardise).of({"label": scores}, groups, ["a"] * 8)
    assert found.tolist() == pytest.approx([1, -1] * 4, abs=1e-5)
    assert max(found) < 1


@pytest.mark.parametrize("objective", ["rwr", "nft", "awm", "dgpo"])
def test_objectives_that_noise_finished_pictures_again_take_a_dataset(make: Make, objective: str) -> None:
    make(f"objective={{name: {objective}}}")


def test_a_run_does_not_go_on_with_another_dataset(make: Make, tmp_path: Path) -> None:
    run = RunDirectory.create(make())
    again = RunDirectory.resume(run.path)
    again.release()
    assert again.config.data is not None
    assert again.config.data.checksum is not None
    write(tmp_path / "data" / "b.parquet", [Pair("a", (PICTURE, PICTURE), 1.0)])
    with pytest.raises(ConfigError, match="is not what the run began with"):
        RunDirectory.resume(run.path)
    assert RunDirectory(run.path).config == again.config  # who only looks need not have it


def test_a_run_goes_on_with_its_dataset_elsewhere(make: Make, tmp_path: Path) -> None:
    run, moved = RunDirectory.create(make()), tmp_path / "another" / "disk"
    moved.parent.mkdir()
    (tmp_path / "data").rename(moved)
    with pytest.raises(ConfigError, match="There is no dataset"):
        RunDirectory.resume(run.path)
    again = RunDirectory.resume(run.path, [f"data.path={moved}"])
    again.begin()
    again.release()
    assert (config := RunDirectory(run.path).config).data is not None
    assert (config.data.path, config.data.checksum) == (str(moved), again.config.data.checksum)
    RunDirectory.resume(run.path).release()  # it has been written down
    write(moved / "a.parquet", [Pair("a", (PICTURE, PICTURE), 1.0)] * 9)
    with pytest.raises(ConfigError, match=r"is not what the run began with .*name where it is now \(data\.path\)"):
        RunDirectory.resume(run.path, [f"data.path={moved}"])
