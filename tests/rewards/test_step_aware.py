"""Step-aware rewards: candidates are judged at their time, and a new model begins as the scorer."""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rewards.actor import RewardActor
from rewards.brightness import Brightness
from rewards.checked import Checked
from rewards.errors import RewardFailed
from rewards.fit import Choice, read
from rewards.fit_steps import Predictor, accuracy, main, preference_loss
from rewards.people.pick_a_pic import decode, write
from rewards.people.shapes_pairs import make_pair
from rewards.reward import Reward, to_images
from rewards.shapes_agreement import ShapesAgreement
from rewards.shapes_steps import ShapesSteps
from shapes import STEP_SCORERS
from shapes.captions import parse
from shapes.render import render
from shapes.scorer import Scorer
from shapes.step_scorer import StepScorer

PROMPTS = ["a red circle", "four blue stars", "a yellow star on the left"]


class Clock(Reward):
    """Says how bright a picture is, plus the time."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images.mean(dim=(1, 2, 3))

    def score_at(self, images: Tensor, prompts: Sequence[str], times: Tensor) -> Tensor:
        if "broken" in prompts:
            raise ValueError("it cannot tell the time")
        return self.score(images, prompts) + times


@pytest.fixture
def pixels() -> np.ndarray:
    return np.stack([render(parse(prompt), random.Random(0)) for prompt in PROMPTS])


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random scorer, small enough to be quick."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("scorer")
    Scorer(width=16, layers=1).save_pretrained(folder)
    return folder


def test_candidates_are_judged_at_their_time_by_the_rewards_that_count(pixels: np.ndarray) -> None:
    made = RewardActor({"clock": Clock, "brightness": Brightness, "watched": Clock})
    pictures = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 8, 8, 3), dtype=np.uint8)
    times = np.array([500.0, 0.0], np.float32)
    found = made.score(pixels, PROMPTS, candidates=(pictures, times), judges=("clock", "brightness"))
    plain = made.score(pixels, PROMPTS)
    assert np.array_equal(found.values, plain.values)
    assert not plain.candidates
    assert found.candidates.keys() == {"clock", "brightness"}
    bright = pictures.mean(axis=(3, 4, 5)) / 255
    np.testing.assert_allclose(found.candidates["brightness"], bright, atol=1e-5)
    np.testing.assert_allclose(found.candidates["clock"], bright + times[:, None], atol=1e-3)
    assert found.candidates["clock"].dtype == np.float32


def test_a_judge_that_raises_says_nothing_of_the_candidates_and_its_scores_stand(pixels: np.ndarray) -> None:
    made = RewardActor({"clock": Clock, "brightness": Brightness})
    pictures, times = np.zeros((3, 2, 4, 8, 8, 3), np.uint8), np.zeros(2, np.float32)
    prompts = ["broken", *PROMPTS[1:]]
    found = made.score(pixels, prompts, candidates=(pictures, times), judges=("clock", "brightness"))
    assert np.isnan(found.candidates["clock"]).all()
    assert np.isfinite(found.candidates["brightness"]).all()
    assert np.isfinite(found.values).all()
    assert "cannot tell the time" in found.failed["clock"]


def test_pictures_that_are_missing_do_not_keep_candidates_from_being_judged(pixels: np.ndarray) -> None:
    masked = np.ma.masked_array(pixels, np.zeros_like(pixels, bool))
    masked[1] = np.ma.masked
    shown = np.zeros((3, 1, 2, 8, 8, 3), np.uint8), np.ones(1, np.float32)
    found = RewardActor({"clock": Clock}).score(masked, PROMPTS, candidates=shown, judges=("clock",))
    assert np.isnan(found.values[0]).tolist() == [False, True, False]
    assert np.array_equal(found.candidates["clock"], np.ones((3, 1, 2)))


def test_candidates_that_are_missing_have_no_score(pixels: np.ndarray) -> None:
    pictures = np.ma.masked_array(np.zeros((3, 2, 2, 8, 8, 3), np.uint8), np.zeros((3, 2, 2, 8, 8, 3), bool))
    pictures[1, 0, 1] = np.ma.masked
    judged = RewardActor({"clock": Clock}).score(
        pixels, PROMPTS, candidates=(pictures, np.ones(2, np.float32)), judges=("clock",)
    )
    expected = np.ones((3, 2, 2))
    expected[1, 0, 1] = np.nan
    np.testing.assert_array_equal(judged.candidates["clock"], expected)


def test_a_reward_without_notice_of_time_takes_predicted_images_for_images(pixels: np.ndarray) -> None:
    images, times = to_images(pixels), torch.tensor([0.0, 500.0, 900.0])
    plain = Brightness()
    assert torch.equal(plain.score_at(images, PROMPTS, times), plain.score(images, PROMPTS))
    checked = Checked(Clock(), "clock")
    torch.testing.assert_close(checked.score_at(images, PROMPTS, times), Clock().score_at(images, PROMPTS, times))
    with pytest.raises(RewardFailed, match="cannot tell the time"):
        checked.score_at(images, ["broken"] * 3, times)


def test_a_new_model_scores_as_the_scorer_it_begins_as(pixels: np.ndarray, scorer: Path) -> None:
    images, reward = to_images(pixels), ShapesSteps(begin=scorer)
    expected = ShapesAgreement(scorer).score(images, PROMPTS)
    for time in (0.0, 400.0, 999.0):
        torch.testing.assert_close(reward.score_at(images, PROMPTS, torch.full((3,), time)), expected)
    torch.testing.assert_close(reward.score(images, PROMPTS), expected)


def test_the_time_reaches_the_score_and_what_is_saved_is_read_back(
    pixels: np.ndarray, scorer: Path, tmp_path: Path
) -> None:
    images, reward = to_images(pixels), ShapesSteps(begin=scorer)
    with torch.no_grad():
        reward.network.time[2].weight.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    early, late = (reward.score_at(images, PROMPTS, torch.full((3,), time)) for time in (50.0, 900.0))
    assert (early - late).abs().min() > 1e-4
    reward.save(tmp_path / "saved")
    again = ShapesSteps(tmp_path / "saved")
    torch.testing.assert_close(again.score_at(images, PROMPTS, torch.full((3,), 50.0)), early, atol=2e-2, rtol=2e-2)
    assert not any(parameter.requires_grad for parameter in again.network.parameters())


def test_the_loss_is_a_choice_and_a_tie_costs_nothing_where_scores_are_equal() -> None:
    """T15: a tie at equal logits 0, at a gap of 2 .4337808305; a win by 2 .126928011."""
    ties = torch.full((1,), 0.5)
    for gap, expected in ((0.0, 0.0), (2.0, 0.4337808305), (-2.0, 0.4337808305)):
        assert preference_loss(torch.tensor([gap]), torch.zeros(1), ties).item() == pytest.approx(expected, abs=1e-6)
    assert preference_loss(torch.tensor([2.0]), torch.zeros(1), torch.ones(1)).item() == pytest.approx(0.126928011)
    assert preference_loss(torch.tensor([2.0]), torch.zeros(1), torch.zeros(1)).item() == pytest.approx(2.126928011)
    many = preference_loss(torch.tensor([2.0, 0.0]), torch.zeros(2), torch.tensor([1.0, 0.5]))
    assert many.item() == pytest.approx(0.126928011 / 2)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    for split, rows in (("train", 20), ("validation", 12)):
        write(folder / f"{split}-00000-of-00001.parquet", [make_pair(row, 0, split, ties=0.2) for row in range(rows)])
    return folder


def test_pairs_share_noise_and_little_noise_leaves_a_picture_as_it_was(pairs: Path, tiny_pipeline: Path) -> None:
    choices = list(read(pairs, "train", 4, 0, left_out := Counter[str]()))
    assert not left_out
    predictor = Predictor(str(tiny_pipeline), 2.0)
    times = torch.tensor([1, 1, 999, 999])
    first, again = (predictor(choices, times, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first, again)
    assert first.shape == (4, 2, 3, 16, 16)
    same = [choice._replace(pixels=(choice.pixels[0], choice.pixels[0])) for choice in choices]
    one, other = predictor(same, times, torch.Generator().manual_seed(0)).unbind(1)
    torch.testing.assert_close(one, other)


def test_the_command_trains_saves_and_says_how_well(
    pairs: Path, tiny_pipeline: Path, scorer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    words = [str(pairs), "--out", str(out), "--option", f"begin={scorer}", "--model", str(tiny_pipeline)]
    words += ["--steps", "3", "--batch", "8", "--lr", "1e-3", "--warmup", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert f"accuracy on {report['held_out']:,} held-out pairs" in printed
    assert list(report["accuracy"]) == [str(time) for time in (1, *range(100, 1000, 100), 980)]
    assert all(0 <= of[name] <= 1 for of in report["accuracy"].values() for name in ("trained", "before"))
    before, after = (
        dict(network.named_parameters()) for network in (ShapesSteps(begin=scorer).network, ShapesSteps(out).network)
    )
    assert any((after[name] - value).abs().max() > 1e-4 for name, value in before.items())
    assert main(words) == 1
    assert "is there already" in capsys.readouterr().err
    assert main([str(pairs), "--option", f"checkpoint={out}", "--model", str(tiny_pipeline)]) == 0
    _, _, table = capsys.readouterr().out.partition("held-out pairs\n")
    first, *rows = table.splitlines()
    assert first.split() == ["time", "shapes_steps"]
    assert [float(row.split()[1]) for row in rows] == pytest.approx(
        [of["trained"] for of in report["accuracy"].values()], abs=0.1
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--reward", "brightness"], "takes no notice of the time"),
        (["--reward", "shapes_stepps"], "did you mean 'shapes_steps'"),
        (["--option", "begn=first"], "begn"),
        (["--option", "begin=/nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(
    pairs: Path, tmp_path: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(pairs), "--out", str(tmp_path / "model"), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_dataset_without_held_out_choices_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "data" / "train.parquet", [make_pair(row) for row in range(4)])
    assert main([str(tmp_path / "data"), "--out", str(tmp_path / "model"), "--option", "begin=first"]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.slow
def test_what_is_shipped_foretells_choices_through_noise_better_than_the_scorer() -> None:
    folder = Path(STEP_SCORERS["first"])
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 2e6
    assert isinstance(ShapesSteps().network, StepScorer)
    rows = (make_pair(row, 5, "unseen") for row in range(160))
    choices = [
        Choice(p.caption, float(p.label or 0), (decode(p.pictures[0]), decode(p.pictures[1])), (b"", b"")) for p in rows
    ]
    models = {"trained": ShapesSteps(), "before": ShapesSteps(begin="first")}
    found = [accuracy(models, Predictor("shapes", 2.0), choices, time, 80, 0) for time in (100, 500)]
    assert found[0]["trained"] > 0.85
    assert found[1]["trained"] > found[1]["before"]
    assert found[1]["trained"] > 0.5 + 2 * math.sqrt(0.25 / len(choices))
