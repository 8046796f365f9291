"""Canaries: pictures whose score under a reward is known, so that one that is installed wrongly is found out.

    python -m rewards.canary REWARD PICTURE --prompt TEXT [--option KEY=VALUE ...]

scores a picture where the reward is known to be right, and prints what goes into a run's configuration. The run asks
every actor of the reward about it before it starts.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from PIL import Image, ImageOps

from rewards import make_judge
from rewards.errors import RewardFailed, RewardUnavailable, UnknownReward
from shapes.arguments import Parser, one_line

if TYPE_CHECKING:
    from rewards.checked import Checked

SHIPPED = Path(__file__).parent / "canaries" / "four_blue_stars.png"


@dataclass(frozen=True)
class Canary:
    """A picture with its score."""

    picture: Path
    prompt: str
    score: float
    tolerance: float = 0.01  # how far from the score an answer may be


def read_picture(path: Path) -> np.ndarray:
    """A file's picture, upright, `(1, H, W, 3)` uint8.

    Raises:
        ValueError: In a sentence without a full stop, if it cannot be read.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))[None]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"the picture {path} cannot be read ({type(error).__name__}: {one_line(error)})") from None


def differs(name: str, canary: Canary, found: float) -> str | None:
    """What is wrong with a reward's answer, in a sentence; `None` if it is what is known."""
    if abs(found - canary.score) <= canary.tolerance:
        return None
    return (
        f"The reward {name!r} is not what it should be: it scores {canary.picture.name} under {canary.prompt!r} "
        f"{found:.5g}, and {canary.score:.5g} is known (within {canary.tolerance:g}); see to its checkpoint, options "
        "and packages, or to the canary."
    )


def ask(reward: Checked, pixels: np.ndarray, prompt: str) -> float:
    """The score of a picture `(1, H, W, 3)` uint8; raises as `Checked`."""
    import torch

    from rewards.reward import to_images

    with torch.no_grad():
        return float(reward.score(to_images(pixels), [prompt])[0])


def main(arguments: Sequence[str] | None = None) -> int:
    """Score a picture and print its canary; returns the exit status."""
    parser = Parser("rewards.canary", "Score a picture, and print the settings that hold a run's reward to it.")
    parser.add_argument("reward", help="a name, module:Class, or grpc://host:port")
    parser.add_argument("picture", type=Path, help="a picture file that stays as it is, better PNG than JPEG")
    parser.add_argument("--prompt", required=True, help="what the picture is judged under")
    parser.add_argument("--option", type=_option, nargs="+", action="extend", default=[], metavar="KEY=VALUE",
                        help="of the reward's class")  # fmt: skip
    args = parser.parse_args(arguments)
    from rewards.checked import Checked

    try:
        made = Checked.make(args.reward, lambda: make_judge(args.reward, **dict(args.option)))
        if not math.isfinite(score := ask(made, read_picture(args.picture), args.prompt)):
            raise ValueError(
                f"the reward {args.reward!r} gives the picture no score under this prompt ({score}), so no run can be "
                "held to it; take another picture, or another prompt"
            )
    except (ValueError, UnknownReward, RewardUnavailable, RewardFailed) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    tolerance = float(f"{max(0.01 * abs(score), 1e-3):.1g}")
    canary = {"picture": str(args.picture.absolute()), "prompt": args.prompt, "score": float(f"{score:.6g}")}
    print(yaml.safe_dump(_settings(args.reward, dict(args.option), canary | {"tolerance": tolerance}), sort_keys=False))
    return 0


def _settings(reward: str, options: Mapping[str, Any], canary: Mapping[str, Any]) -> dict[str, Any]:
    plain = reward.replace("_", "").isalnum()
    kind = {} if plain else {"kind": reward}
    return {"rewards": {reward if plain else "mine": {**kind, **({"options": dict(options)} if options else {}),
                                                      "canaries": [dict(canary)]}}}  # fmt: skip


def _option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    try:
        if equals:
            return key, yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not an option; write key=value, such as model=/models/clip")


if __name__ == "__main__":
    sys.exit(main())
