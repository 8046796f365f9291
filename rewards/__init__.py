"""What judges: one file a reward, the actor that serves them, and their combination.

Adding a reward is one file and one line in `REWARDS`. Each is imported only when it is asked for, because rewards bring
heavy packages of their own.
"""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import Any

from rewards.reward import Reward

REWARDS = {
    "shapes_agreement": "rewards.shapes_agreement:ShapesAgreement",
    "shapes_gold": "rewards.shapes_gold:ShapesGold",
    "jpeg_compressibility": "rewards.jpeg:JpegCompressibility",
}


def reward_class(name: str) -> type[Reward]:
    """The class of a reward.

    Raises:
        KeyError: If there is none of that name.
    """
    if is_remote(name):
        return import_module("rewards.service.client").RewardClient
    if name not in REWARDS:
        near = difflib.get_close_matches(name, REWARDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the rewards are {', '.join(REWARDS)}."
        raise KeyError(f"There is no reward {name!r}; {hint}")
    module, attribute = REWARDS[name].split(":")
    return getattr(import_module(module), attribute)


def make_reward(name: str, **options: Any) -> Reward:
    """Build a reward by name, with the keyword arguments of its class; `grpc://host:port` is one on a server."""
    made: Any = reward_class(name)
    return made(name, **options) if is_remote(name) else made(**options)


def is_remote(name: str) -> bool:
    """Whether a reward's name is the address of a reward service."""
    return name.startswith(("grpc://", "grpcs://"))
