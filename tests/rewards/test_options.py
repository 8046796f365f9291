"""Options against the signature, before anything is built."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rewards import REWARDS
from rewards.options import check_options
from rewards.reward import UnknownReward

NEEDED = {"fitted": {"path": "a"}, "vlm_judge": {"base_url": "http://localhost/v1", "model": "a"}}


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's module with rewards whose signatures differ."""
    (tmp_path / "optional.py").write_text("""
from __future__ import annotations
from typing import TYPE_CHECKING
from rewards.reward import Reward

if TYPE_CHECKING:
    from nowhere import Thing

class Needs(Reward):
    built = False
    def __init__(self, path: str, *, scale: float = 1.0):
        Needs.built = True
    def score(self, images, prompts): ...

class Any(Needs):
    def __init__(self, **options): ...

class Odd(Needs):
    def __init__(self, thing: Thing = None): ...

def plain(images, prompts, scale=1.0): ...
def strict(images, prompts, *, path): ...
""")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "optional", raising=False)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((name, NEEDED.get(name, {})) for name in REWARDS),
        ("jpeg_compressibility", {"quality": 10}),
        ("optional:Needs", {"path": "a", "scale": 2}),
        ("optional:Any", {"whatever": 1}),
        ("optional:plain", {}),
        ("optional:plain", {"scale": 2}),
        ("optional:strict", {"path": "a"}),
        ("grpc://127.0.0.1:1", {"patience": 1.0}),
    ],
)
def test_options_that_the_signature_takes_pass(kind: str, options: dict) -> None:
    check_options(kind, options)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("jpeg_compressibility", {"qualty": 10}, ["no option 'qualty'", "mean 'quality'", "(quality: int = "]),
        ("shapes_gold", {"nope": 1}, ["'shapes_gold'", "no option 'nope'", "it takes (world: str = 'first')"]),
        ("optional:Needs", {"scale": 1}, ["needs the option 'path'", "(path: str, *, scale: float = 1.0)"]),
        ("optional:Odd", {"things": 1}, ["mean 'thing'"]),
        ("optional:plain", {"images": 1}, ["no option 'images'", "(scale=1.0)"]),
        ("optional:strict", {}, ["needs the option 'path'"]),
        ("grpc://127.0.0.1:1", {"address": "x"}, ["no option 'address'", "deadline"]),
    ],
)
def test_options_that_it_does_not_take_are_refused_with_the_signature(kind: str, options: dict, words: list) -> None:
    with pytest.raises(ValueError, match="the reward") as error:
        check_options(kind, options)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_nothing_is_built() -> None:
    check_options("optional:Needs", {"path": "a"})
    assert not sys.modules["optional"].Needs.built


def test_the_options_of_no_reward_are_those_of_an_unknown_one() -> None:
    with pytest.raises(UnknownReward):
        check_options("optional:Nothing", {})
