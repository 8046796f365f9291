"""Drawn pictures become a dataset: pairs of one prompt, the better one by the reward, and nobody twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cluster.config import Config
from cluster.generate import main
from cluster.records.png import read_pixels
from rewards.people.pick_a_pic import caption_of, decode, label_of, read_index, read_rows
from tests.support.run_folder import make_run

Make = Callable[..., Config]
PROMPTS = ("a red circle", "two blue squares")


@pytest.fixture
def run(make_config: Make) -> Path:
    """A run that brightness rewards; the other reward would have to read prompts."""
    rewards = "rewards={brightness: {weight: 2}, shapes_agreement: {weight: 0}}"
    return make_run(make_config(rewards, "policy.steps=2"))


def draw(run: Path, tmp_path: Path, *words: str) -> int:
    arguments = [str(run), *PROMPTS, "--out", str(tmp_path / "out"), "--dataset", str(tmp_path / "data"), *words]
    return main(arguments)


def rows(tmp_path: Path) -> list[dict]:
    index = read_index(tmp_path / "data")
    return [
        row
        for (file, group), size in zip(index.groups, index.sizes, strict=True)
        for row in read_rows(index.files[file], group, range(size))
    ]


def test_pairs_are_neighbours_of_one_prompt_and_the_better_one_is_the_rewards(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw(run, tmp_path, "--samples", "5") == 0  # the fifth has no partner
    assert "4 pairs, labelled by 2 brightness: " in " ".join(capsys.readouterr().out.split())
    drawn = {path.name: np.asarray(read_pixels(path)) for path in (tmp_path / "out").glob("0*.png")}
    found = rows(tmp_path)
    assert [caption_of(row) for row in found] == [*PROMPTS, *PROMPTS]  # neighbours are of different prompts
    pictures = [[decode(row["jpg_0"]), decode(row["jpg_1"])] for row in found]
    names = [("0000-0-00", "0000-0-01"), ("0001-0-00", "0001-0-01"), ("0000-0-02", "0000-0-03")]
    for pair, own in zip(names, pictures, strict=False):
        assert all(np.array_equal(drawn[f"{name}.png"], picture) for name, picture in zip(pair, own, strict=True))
    labels = [label_of(row) for row in found]
    assert labels == [float(first.mean() > second.mean()) for first, second in pictures]


def test_with_the_base_model_the_two_of_a_seed_are_a_pair(run: Path, tmp_path: Path) -> None:
    assert draw(run, tmp_path, "--base", "--reward", "shapes_gold") == 0
    found = rows(tmp_path)
    assert len(found) == 2
    for number, row in enumerate(found):
        assert np.array_equal(decode(row["jpg_0"]), read_pixels(tmp_path / "out" / f"{number:04d}-0-00.png"))
        assert np.array_equal(decode(row["jpg_1"]), read_pixels(tmp_path / "out" / f"{number:04d}-0-00-base.png"))


def test_the_same_command_writes_the_same_file_and_another_one_beside_it(run: Path, tmp_path: Path) -> None:
    assert draw(run, tmp_path, "--samples", "2") == 0
    (first,) = (tmp_path / "data").iterdir()
    before = first.read_bytes()
    assert draw(run, tmp_path, "--samples", "2") == 0
    assert [path.read_bytes() for path in (tmp_path / "data").iterdir()] == [before]
    assert draw(run, tmp_path, "--samples", "2", "--reward", "shapes_gold") == 0
    assert len(list((tmp_path / "data").iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "A pair takes two pictures of a prompt; raise --samples"),
        (("--samples", "2", "--reward", "nobody"), "There is no reward 'nobody'"),
        (("--samples", "2", "--reward", "dino"), "The reward 'dino' has image features and no score"),
    ],
)
def test_what_cannot_be_paired_or_judged_is_refused_before_anything_is_drawn(
    run: Path, tmp_path: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw(run, tmp_path, *words) == 1
    assert f"error: {said}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_pairs_of_which_none_can_be_judged_are_no_dataset(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw(run, tmp_path, "--samples", "2", "--reward", "people") == 1
    told = capsys.readouterr()
    assert told.err == "error: people can judge none of the pairs, so no dataset is written.\n"
    assert "4 pictures: " in told.out
    assert not (tmp_path / "data").exists()


def test_a_model_without_a_run_needs_a_reward_to_be_named(
    tiny_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw(tiny_pipeline, tmp_path, "--samples", "2", "steps=2") == 1
    assert "name a reward with --reward." in capsys.readouterr().err
