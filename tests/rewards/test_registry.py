"""The table of rewards: every entry is there, options arrive, typos are named, nothing is imported unasked."""

from __future__ import annotations

import sys
from importlib import reload

import pytest
import torch

import rewards
from rewards import REWARDS, make_reward, reward_class
from rewards.reward import Reward


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


@pytest.mark.parametrize("typo", ["jpeg_compressability", "jpg_compressibility", "jpeg"])
def test_a_typo_is_answered_with_the_nearest_name(typo: str) -> None:
    with pytest.raises(KeyError, match=typo) as error:
        make_reward(typo)
    assert "jpeg_compressibility" in str(error.value)


def test_a_name_like_no_other_is_answered_with_all_names() -> None:
    with pytest.raises(KeyError) as error:
        reward_class("zzz")
    assert all(name in str(error.value) for name in REWARDS)


def test_rewards_are_imported_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = {target.split(":")[0] for target in REWARDS.values()}
    for module in modules:
        monkeypatch.delitem(sys.modules, module, raising=False)
    reload(rewards)
    assert not modules & set(sys.modules)
