"""Canaries: those that ship hold of the rewards that ship, another reward is named, and the command records one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from rewards import REWARDS, make_reward, reward_class
from rewards.actor import RewardActor
from rewards.canary import SHIPPED, Canary, differs, main, read_picture

OWN = ("shapes_agreement", "shapes_gold", "shapes_aesthetic", "shapes_reading")


def wrong(name: str, *canaries: Canary, **options: Any) -> list[str]:
    actor = RewardActor({name: partial(make_reward, name, **options)})
    return actor.wrong({name: [(one, read_picture(one.picture)) for one in canaries]})


@pytest.mark.parametrize("name", OWN)
def test_what_ships_scores_its_canary_as_it_says(name: str) -> None:
    canaries = reward_class(name).canaries()
    assert canaries
    assert wrong(name, *canaries) == []


@pytest.mark.parametrize(
    ("name", "options"),
    [("shapes_agreement", {"checkpoint": "second"}), ("shapes_gold", {"world": "second"}),
     ("shapes_reading", {"world": "second"}), ("shapes_aesthetic", {"checkpoint": "elsewhere"})],
)  # fmt: skip
def test_with_other_options_another_reward_has_other_canaries(name: str, options: dict[str, Any]) -> None:
    assert reward_class(name).canaries(**options) == ()


def test_the_wrong_checkpoint_is_named_with_what_is_known_and_what_is_found() -> None:
    (sentence,) = wrong("shapes_agreement", *reward_class("shapes_agreement").canaries(), checkpoint="second")
    assert sentence.startswith("The reward 'shapes_agreement' is not what it should be: it scores four_blue_stars.png")
    assert "and 2.714 is known (within 0.01)" in sentence


def test_a_tolerance_is_how_far_an_answer_may_be() -> None:
    canary = Canary(Path("a.png"), "a cat", 1.0, 0.1)
    assert differs("mine", canary, 1.09) is None
    assert differs("mine", canary, 0.91) is None
    assert "1.2, and 1 is known" in str(differs("mine", canary, 1.2))
    assert "nan, and 1 is known" in str(differs("mine", canary, float("nan")))


def test_what_raises_is_wrong_too() -> None:
    small = Canary(SHIPPED, "four blue stars", 0.0)
    actor = RewardActor({"mine": lambda: _Raises()})
    (sentence,) = actor.wrong({"mine": [(small, np.zeros((1, 4, 4, 3), np.uint8))]})
    assert "The reward 'mine'" in sentence
    assert "KeyError" in sentence


class _Raises(reward_class("brightness")):  # type: ignore[misc]
    def score(self, images: Any, prompts: Any) -> Any:
        raise KeyError("none")


def test_the_command_prints_what_a_run_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "grey.png"
    Image.new("RGB", (8, 8), (51, 102, 153)).save(picture)
    assert main(["brightness", str(picture), "--prompt", "it's grey: a lot"]) == 0
    found = yaml.safe_load(capsys.readouterr().out)
    (canary,) = found["rewards"]["brightness"]["canaries"]
    assert canary == {"picture": str(picture), "prompt": "it's grey: a lot", "score": 0.4, "tolerance": 0.004}
    assert wrong("brightness", Canary(picture, canary["prompt"], canary["score"], canary["tolerance"])) == []


def test_the_command_keeps_options_and_says_of_which_reward(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["rewards.shapes_gold:ShapesGold", str(SHIPPED), "--prompt", "four blue stars", "--option", "world=first"]
    assert main(words) == 0
    mine = yaml.safe_load(capsys.readouterr().out)["rewards"]["mine"]
    assert mine["kind"] == "rewards.shapes_gold:ShapesGold"
    assert mine["options"] == {"world": "first"}
    assert mine["canaries"][0]["score"] == 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["brightness", "none.png"], "error: the picture none.png cannot be read"),
        (["brightnes", str(SHIPPED)], "error: There is no reward 'brightnes'; did you mean 'brightness'?"),
        (["shapes_gold", str(SHIPPED), "--option", "world=third"], "error: The reward 'shapes_gold' cannot be built"),
        (["dino", str(SHIPPED)], "error: The reward 'dino' has image features and no score"),
        (["people", str(SHIPPED)], "error: the reward 'people' gives the picture no score under this prompt (nan)"),
    ],
)
def test_the_command_fails_in_a_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--prompt", "a cat"]) == 1
    assert capsys.readouterr().err.startswith(said)


def test_of_a_transparent_picture_the_colours_count(tmp_path: Path) -> None:
    Image.new("RGBA", (3, 2), (10, 20, 30, 255)).save(tmp_path / "clear.png")
    pixels = read_picture(tmp_path / "clear.png")
    assert pixels.shape == (1, 2, 3, 3)
    assert (pixels == (10, 20, 30)).all()


def test_most_rewards_have_none_of_their_own() -> None:
    assert {name for name in REWARDS if name not in ("ocr",) and reward_class(name).canaries()} == set(OWN)
