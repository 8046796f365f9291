"""What judges: one file a reward, the actor that serves them, and their combination.

Adding a reward is one file and one line in `REWARDS`; a reward of one's own needs no line here, its kind is
`module:Class`. Each is imported only when it is asked for, because rewards bring heavy packages of their own.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from rewards.reward import Reward, UnknownReward

REWARDS = {
    "shapes_agreement": "rewards.shapes_agreement:ShapesAgreement",
    "shapes_gold": "rewards.shapes_gold:ShapesGold",
    "clip": "rewards.clip_score:ClipScore",
    "pickscore": "rewards.pickscore:PickScore",
    "aesthetic": "rewards.aesthetic:Aesthetic",
    "jpeg_compressibility": "rewards.jpeg:JpegCompressibility",
    "jpeg_incompressibility": "rewards.jpeg:JpegIncompressibility",
    "image_reward": "rewards.image_reward:ImageReward",
    "hpsv2": "rewards.hpsv2:HPSv2",
}


def reward_class(kind: str) -> type[Reward]:
    """The class of a kind of reward.

    Args:
        kind: A name in `REWARDS`, `module:Class`, or the address of a reward service (`grpc://host:port`).

    Raises:
        UnknownReward: If there is none, it is no reward, or the address cannot be one.
    """
    if kind in REWARDS:
        return _load(REWARDS[kind])
    if is_remote(kind):
        _check_address(kind)
        return _load("rewards.service.client:RewardClient")
    if ":" in kind:
        return _load(kind)
    near = difflib.get_close_matches(kind, REWARDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the rewards are {', '.join(REWARDS)}."
    raise UnknownReward(f"There is no reward {kind!r}; {hint}")


def make_reward(kind: str, **options: Any) -> Reward:
    """Build a reward of a kind, with the keyword arguments of its class."""
    made: Any = reward_class(kind)
    return made(kind, **options) if is_remote(kind) else made(**options)


def is_remote(kind: str) -> bool:
    """Whether a kind of reward is the address of a reward service."""
    return kind.startswith(("grpc://", "grpcs://"))


def _check_address(kind: str) -> None:
    from rewards.service.security import split_address  # gRPC, which not every reward's environment has

    try:
        split_address(kind.partition("://")[2])
    except ValueError as error:
        raise UnknownReward(f"There is no reward {kind!r}: {error}") from error


def _load(target: str) -> type[Reward]:
    module, _, attribute = target.partition(":")
    try:
        found = getattr(import_module(module), attribute, None)
    except Exception as error:  # a user's file may raise anything
        cause = " ".join(f"{type(error).__name__}: {error}".split()).rstrip(".")
        raise UnknownReward(
            f"The module of the reward {target!r} cannot be imported here ({cause}); its folder must be the current "
            "one or on PYTHONPATH, and what only its own environment has is imported in the constructor."
        ) from error
    if not isinstance(found, type):
        raise UnknownReward(f"The module {module!r} has no class {attribute!r}, which the reward {target!r} asks for.")
    if not issubclass(found, Reward):
        raise UnknownReward(f"{target!r} is not a reward; derive it from rewards.reward.Reward.")
    return found
