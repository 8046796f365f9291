"""A reward fitted to choices: a taste is learned from few of them, saved, read back, and held to its features."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch

from rewards import make_reward
from rewards.fit import main
from rewards.fitted import Fitted, Head
from rewards.people.pick_a_pic import Pair, decode, encode, write
from rewards.people.shapes_pairs import make_pair
from rewards.reward import to_images
from shapes.captions import sample_caption
from shapes.render import render
from shapes.scorer import Scorer
from tests.support.taste import taste


def pairs(count: int, seed: int = 0) -> Iterator[Pair]:
    """Renderings, and what somebody says of them who likes small warm shapes on grey, whatever the prompt."""
    rng = random.Random(seed)
    for _ in range(count):
        captions = [sample_caption(rng) for _ in range(2)]
        files = encode(render(captions[0], rng)), encode(render(captions[1], rng))
        one, other = (taste(BytesIO(file)) for file in files)  # type: ignore[arg-type]
        yield Pair(captions[0].text, files, 0.5 if abs(one - other) < 0.1 else float(one > other))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random scorer, small enough to be quick."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("scorer")
    Scorer(width=16, layers=1).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def fitted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward that was fitted to forty pairs on its features."""
    folder = tmp_path_factory.mktemp("fitted")
    write(folder / "data.parquet", pairs(40))
    given = [str(folder / "data.parquet"), "--out", str(folder / "taste"), "--option", f"checkpoint={checkpoint}"]
    assert main(given) == 0
    return folder / "taste"


def images(count: int) -> torch.Tensor:
    return torch.cat([to_images(decode(pair.pictures[0])[None]) for pair in pairs(count, seed=9)])


def test_a_taste_is_learned_from_three_hundred_pairs(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train.parquet", pairs(300))
    assert main([str(tmp_path / "data"), "--features", "shapes_reading", "--out", str(tmp_path / "taste")]) == 0
    report = Head.load(tmp_path / "taste").report
    rate, low, high = report["accuracy"]
    assert low > 0.7
    assert low < rate < high
    assert report["log_loss"] < 0.5
    assert report["calibration_error"] < 0.15
    assert sum(own["pairs"] for own in report["reliability"]) == 300
    reward, hits = Fitted(str(tmp_path / "taste")), []
    for pair in pairs(100, seed=1):  # nobody has seen these
        first, second = reward.score(to_images(np.stack([decode(data) for data in pair.pictures])), [""] * 2)
        if pair.label != 0.5:
            hits.append(bool(first > second) == (pair.label == 1))
    assert np.mean(hits) > 0.75


def test_the_score_lets_the_prompt_count(tmp_path: Path) -> None:
    """The label is which of two pictures is true to the prompt, which features of pictures alone cannot say."""
    write(tmp_path / "data.parquet", (make_pair(row) for row in range(60)))
    assert main([str(tmp_path / "data.parquet"), "--out", str(tmp_path / "taste")]) == 0
    assert Head.load(tmp_path / "taste").report["accuracy"][1] > 0.6


def test_a_saved_reward_scores_as_its_head_says_and_can_be_named(fitted: Path, checkpoint: Path) -> None:
    shown, prompts = images(5), ["a red circle", "a blue star", "a", "b", "a green square"]
    tensors = Head.load(fitted).tensors
    base = make_reward("shapes_agreement", checkpoint=checkpoint)
    x = torch.cat([base.embed(shown), base.score(shown, prompts)[:, None]], dim=1)
    expected = ((x - tensors["mean"]) / tensors["scale"] * tensors["weight"]).sum(dim=1)
    for made in (Fitted(str(fitted)), make_reward("fitted", path=str(fitted), batch_size=2)):
        torch.testing.assert_close(made.score(shown, prompts), expected, atol=1e-5, rtol=1e-4)
    assert expected.std() > 0.01


def test_saving_what_was_loaded_changes_nothing(fitted: Path, tmp_path: Path) -> None:
    Head.load(fitted).save(tmp_path / "again")
    for file in fitted.iterdir():
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
    one, other = (Fitted(str(folder)).score(images(3), ["a"] * 3) for folder in (fitted, tmp_path / "again"))
    assert one.equal(other)


def test_the_same_seed_fits_the_same_reward(fitted: Path, checkpoint: Path, tmp_path: Path) -> None:
    data = str(fitted.parent / "data.parquet")
    assert main([data, "--out", str(tmp_path / "again"), "--option", f"checkpoint={checkpoint}"]) == 0
    one, other = (Head.load(folder) for folder in (fitted, tmp_path / "again"))
    assert one.report == other.report
    assert one.tensors["weight"].equal(other.tensors["weight"])


def test_the_gradient_is_finite_and_that_of_differences(fitted: Path) -> None:
    reward, shown, prompts = Fitted(str(fitted)), images(2), ["a red circle", "a blue star"]
    assert reward.differentiable
    scores, gradient = reward.score_and_grad(shown, prompts)
    assert gradient.isfinite().all()
    assert (gradient.flatten(1).norm(dim=1) > 0).all()
    torch.testing.assert_close(scores, reward.score(shown, prompts))
    step = 1e-2 * gradient / gradient.norm()
    ahead, behind = (reward.score(shown + sign * step, prompts).sum() for sign in (1, -1))
    assert float(ahead - behind) == pytest.approx(2e-2 * float(gradient.norm()), rel=2e-2)


def test_rows_that_are_no_choice_are_counted(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = list(pairs(24))
    made[0], made[1] = replace(made[0], label=None, both_bad=True), replace(made[1], label=None)
    made[2], made[3] = replace(made[2], caption=""), replace(made[3], pictures=(b"", b""))
    made[4] = replace(made[4], label=0.5)
    write(tmp_path / "data.parquet", made)
    given = [str(tmp_path / "data.parquet"), "--out", str(tmp_path / "taste"), "--option", f"checkpoint={checkpoint}"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "20 pairs, 4 of them ties; " in said
    assert all(words in said for words in ("1 both bad", "1 without a choice", "2 corrupt", "accuracy 0."))
    assert Head.load(tmp_path / "taste").report["ties"] == 1 + sum(pair.label == 0.5 for pair in made[5:])


def test_folders_that_are_none_are_refused(fitted: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"options.path\) is no folder that rewards.fit has written"):
            Fitted(str(path))
    torn = tmp_path / "torn"
    Head.load(fitted).save(torn)
    whole = (torn / "head.safetensors").read_bytes()
    (torn / "head.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="no folder that"):
        Fitted(str(torn))


def test_features_that_have_changed_are_refused(fitted: Path, checkpoint: Path, tmp_path: Path) -> None:
    scorer, head = Scorer.from_pretrained(checkpoint), Head.load(fitted)
    with torch.no_grad():
        scorer.tower[0].weight.mul_(1.05)
    scorer.save_pretrained(tmp_path / "scorer")
    replace(head, options={"checkpoint": str(tmp_path / "scorer")}).save(tmp_path / "taste")
    with pytest.raises(ValueError, match=r"'shapes_agreement' are not those that .* was fitted on"):
        Fitted(str(tmp_path / "taste"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["nowhere"], "there is no dataset nowhere"),
        (["data.parquet", "--features", "brightness"], "'brightness' has no image features"),
        (["data.parquet", "--features", "shapes_agrement"], "did you mean 'shapes_agreement'"),
        (["data.parquet", "--option", "chekpoint=second"], "no option 'chekpoint'"),
        (["data.parquet", "--option", "checkpoint=nowhere"], "cannot be built"),
        (["data.parquet", "--rows", "5"], "and a reward takes 10 at least"),
        (["data.parquet", "--out", "full"], "full is there already"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_a_sentence(
    given: list[str], words: str, fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data.parquet").write_bytes((fitted.parent / "data.parquet").read_bytes())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert main(given) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "fitted").exists()


def test_help_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert all(option in said for option in ("DATASET", "--features", "--out"))
