"""The table of rewards: every entry is there, options arrive, typos are named, nothing is imported unasked."""

from __future__ import annotations

import sys
from importlib import reload
from pathlib import Path

import pytest
import torch

import rewards
from rewards import REWARDS, make_reward, reward_class
from rewards.reward import Reward, UnknownReward


@pytest.mark.parametrize("name", REWARDS)
def test_every_entry_is_a_reward(name: str) -> None:
    assert issubclass(reward_class(name), Reward)
    assert reward_class(name).score is not Reward.score


def test_options_reach_the_reward() -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    coarse, fine = (make_reward("jpeg_compressibility", quality=q).score(image, [""]) for q in (10, 95))
    assert coarse > fine


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(TypeError, match="qualty"):
        make_reward("jpeg_compressibility", qualty=10)


def test_an_unknown_option_of_a_function_is_refused(own: str) -> None:
    with pytest.raises(TypeError, match="scele"):
        make_reward(f"{own}:blue", scele=10)


@pytest.mark.parametrize("typo", ["jpeg_compressability", "jpg_compressibility", "jpeg"])
def test_a_typo_is_answered_with_the_nearest_name(typo: str) -> None:
    with pytest.raises(KeyError, match=typo) as error:
        make_reward(typo)
    assert "jpeg_compressibility" in str(error.value)


def test_a_name_like_no_other_is_answered_with_all_names() -> None:
    with pytest.raises(KeyError) as error:
        reward_class("zzz")
    assert all(name in str(error.value) for name in REWARDS)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The module of a user's own rewards, importable."""
    (tmp_path / "own_rewards.py").write_text("""
import torch
from rewards.reward import Reward

class Brightness(Reward):
    def __init__(self, scale=1.0):
        self.scale = scale
    def score(self, images, prompts):
        return images.mean((1, 2, 3)) * self.scale

class NoReward:
    pass

class Unfinished(Reward):
    pass

def blue(images, prompts, scale=1.0):
    return images[:, 2].mean((1, 2)) * scale

def lonely(images):
    return images

number = 3
""")
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_here\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "not_python.py").write_text("class Broken(\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_rewards", raising=False)
    return "own_rewards"


def test_a_reward_of_ones_own_is_named_by_module_and_class(own: str) -> None:
    reward = make_reward(f"{own}:Brightness", scale=3.0)
    assert reward.score(torch.full((2, 3, 4, 4), 0.5), ["", ""]).tolist() == [1.5, 1.5]


def test_a_plain_function_is_a_reward_and_its_other_arguments_are_options(own: str) -> None:
    reward = make_reward(f"{own}:blue", scale=3.0)
    assert reward.score(torch.full((2, 3, 4, 4), 0.5), ["", ""]).tolist() == [1.5, 1.5]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no_such_module:A", ["no_such_module", "current", "PYTHONPATH"]),
        ("needs_more:A", ["a_package_that_is_not_here", "constructor"]),
        ("not_python:A", ["SyntaxError"]),
        ("leaves:A", ["SystemExit", "leaves.py:2"]),
        ("own_rewards:Darkness", ["'own_rewards' has no class and no function 'Darkness'"]),
        ("own_rewards:number", ["no function 'number'"]),
        ("own_rewards:Unfinished", ["does not define score"]),
        ("own_rewards:lonely", ["must take (images, prompts)"]),
        ("own_rewards:NoReward", ["is not a reward", "rewards.reward.Reward"]),
        ("own_rewards:", ["has no class and no function ''"]),
        (":Brightness", ["':Brightness'"]),
    ],
)
@pytest.mark.usefixtures("own")
def test_what_is_no_reward_of_ones_own_is_refused_in_one_sentence(kind: str, words: list[str]) -> None:
    with pytest.raises(UnknownReward) as caught:
        reward_class(kind)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "differentiable"), [("image_reward", True), ("hpsv2", True), ("ocr", False)])
def test_a_rewards_attributes_can_be_read_without_its_packages(name: str, differentiable: bool) -> None:
    found = reward_class(name)
    assert found.differentiable == differentiable
    assert found.environment == name
    assert not {"ImageReward", "hpsv2", "timm", "rapidocr"} & set(sys.modules)


def test_rewards_are_imported_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {target.split(":")[0] for target in REWARDS.values()}
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    reload(rewards)
    assert not modules & set(sys.modules)
