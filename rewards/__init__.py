"""What judges: one file a reward, the actor that serves them, and their combination.

Adding a reward is one file and one line in `REWARDS`; a reward of one's own needs no line here, its kind is
`module:Class` or `module:function`. Each is imported only when it is asked for, because rewards bring heavy packages of
their own.
"""

from __future__ import annotations

import difflib
import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any

from rewards.errors import UnknownReward, said

if TYPE_CHECKING:
    from rewards.reward import Reward

REWARDS = {
    "shapes_agreement": "rewards.shapes_agreement:ShapesAgreement",
    "shapes_gold": "rewards.shapes_gold:ShapesGold",
    "shapes_steps": "rewards.shapes_steps:ShapesSteps",
    "shapes_aesthetic": "rewards.shapes_aesthetic:ShapesAesthetic",
    "shapes_reading": "rewards.shapes_reading:ShapesReading",
    "brightness": "rewards.brightness:Brightness",
    "clip": "rewards.clip_score:ClipScore",
    "dino": "rewards.dino:Dino",
    "pickscore": "rewards.pickscore:PickScore",
    "spm": "rewards.spm:Spm",
    "aesthetic": "rewards.aesthetic:Aesthetic",
    "jpeg_compressibility": "rewards.jpeg:JpegCompressibility",
    "jpeg_incompressibility": "rewards.jpeg:JpegIncompressibility",
    "image_reward": "rewards.image_reward:ImageReward",
    "hpsv2": "rewards.hpsv2:HPSv2",
    "ocr": "rewards.ocr:Ocr",
    "vlm_judge": "rewards.vlm_judge:VlmJudge",
    "fitted": "rewards.fitted:Fitted",
    "people": "rewards.people.reward:People",
}


def reward_class(kind: str) -> type[Reward]:
    """The class of a kind of reward.

    Args:
        kind: A name in `REWARDS`, `module:Class` or `module:function` of one's own, or the address of a reward service
            (`grpc://host:port`).

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
    ours = f"the rewards are {', '.join(REWARDS)}, and one of your own is written module:name."
    hint = f"did you mean {near[0]!r}?" if near else ours
    raise UnknownReward(f"There is no reward {kind!r}; {hint}")


def make_reward(kind: str, **options: Any) -> Reward:
    """Build a reward of a kind, with the keyword arguments of its class."""
    made: Any = reward_class(kind)
    return made(kind, **options) if is_remote(kind) else made(**options)


def make_judge(kind: str, **options: Any) -> Reward:
    """Build a reward that is asked for scores, as `make_reward`; raises `UnknownReward` where it has features alone."""
    if reward_class(kind).features_only:
        raise UnknownReward(f"The reward {kind!r} has image features and no score, so it judges nothing; name another.")
    return make_reward(kind, **options)


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
    from rewards.function import as_reward  # torch, which `rewards.people` does without
    from rewards.reward import Reward

    module, _, attribute = target.partition(":")
    try:
        found = getattr(import_module(module), attribute, None)
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        raise UnknownReward(
            f"The module of the reward {target!r} cannot be imported here ({said(error)}); its folder must be the "
            "current one or on PYTHONPATH, and what only its own environment has is imported in the constructor."
        ) from error
    if isinstance(found, type):
        if not issubclass(found, Reward):
            raise UnknownReward(f"{target!r} is not a reward; derive it from rewards.reward.Reward.")
        if inspect.isabstract(found):
            raise UnknownReward(
                f"The reward {target!r} does not define {', '.join(sorted(found.__abstractmethods__))}."
            )
        return found
    if not callable(found):
        raise UnknownReward(
            f"The module {module!r} has no class and no function {attribute!r}, which the reward {target!r} asks for."
        )
    try:
        return as_reward(found)
    except (TypeError, ValueError):
        raise UnknownReward(f"The function {target!r} is no reward; it must take (images, prompts).") from None
