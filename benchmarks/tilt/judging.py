"""What is measured of pictures: reward, gold, background, and features that no trained reward uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.tilt.draws import Drawn
from cluster.config import Config
from cluster.errors import ConfigError
from rewards.reward import Reward, to_images
from rewards.shapes_gold import ShapesGold
from rewards.shapes_reading import ShapesReading
from rewards.weighted import WeightedSum
from shapes import PIPELINES
from shapes.worlds import FIRST, SECOND, World

OTHER = "other"
_NEAR = 50.0  # RGB units (0-255) from a background of the world; further away is another
_AT_A_TIME = 512
_WORLDS = {"shapes": FIRST, "shapes_flow": FIRST, "shapes_second": SECOND}


@dataclass(frozen=True)
class Judged:
    """B pictures as figures."""

    groups: np.ndarray  # (B,) int64, index of the prompt
    reward: np.ndarray  # (B,) float64, of the run: the weighted sum, not standardised
    gold: np.ndarray  # (B,) float64
    grounds: np.ndarray  # (B, backgrounds + 1) float64, 1 for the one it has, of which the last is any other
    pixels: np.ndarray  # (B, 192) float32, coarse pixels
    reading: np.ndarray  # (B, 128) float32, of the network that reads


def world_of(config: Config) -> World:
    """The embedded world of a run.

    Raises:
        ConfigError: If its model is none of an embedded world's.
    """
    for name, world in _WORLDS.items():
        if config.pipeline == str(PIPELINES[name]):
            return world
    raise ConfigError(
        f"{config.policy.model} is no model of an embedded world, whose backgrounds are counted; set policy.model to "
        f"one of {', '.join(_WORLDS)}."
    )


def ground_names(world: World) -> list[str]:
    """The columns of `Judged.grounds`."""
    return [*world.backgrounds, OTHER]


def grounds(pixels: np.ndarray, world: World) -> np.ndarray:
    """Which background each picture has, `(B, backgrounds + 1)` of 0 and 1: the nearest to its border's median.

    Args:
        pixels: `(B, H, W, 3)` uint8.
        world: Whose backgrounds.
    """
    border = np.concatenate([pixels[:, 0], pixels[:, -1], pixels[:, :, 0], pixels[:, :, -1]], axis=1)
    backdrop = np.median(border, axis=1)
    away = np.linalg.norm(backdrop[:, None] - np.array(list(world.backgrounds.values()), float)[None], axis=2)
    which = np.where(away.min(axis=1) <= _NEAR, away.argmin(axis=1), away.shape[1])
    return np.eye(away.shape[1] + 1)[which]


def judge(drawn: Drawn, prompts: Sequence[str], config: Config) -> Judged:
    """Judge pictures by the rewards of a run, and by what nobody trains on.

    Raises:
        ConfigError: If the model is of no embedded world, or a picture has no reward.
    """
    world = world_of(config)
    weights = {name: reward.weight for name, reward in config.rewards.items()}
    reward, gold, reader = WeightedSum.make(config.makers, weights), ShapesGold(world.name), ShapesReading(world.name)
    texts = [prompts[index] for index in drawn.groups]
    scores, golds, pixels, reading = (
        np.concatenate(parts)
        for parts in zip(
            *(_figures(drawn.pixels[at:][:_AT_A_TIME], texts[at:][:_AT_A_TIME], reward, gold, reader)
              for at in range(0, len(texts), _AT_A_TIME)),
            strict=True,
        )
    )  # fmt: skip
    if not np.isfinite(scores).all():
        raise ConfigError("The rewards cannot judge every picture of these prompts, so there is no tilt.")
    return Judged(
        drawn.groups, scores.astype(float), golds.astype(float), grounds(drawn.pixels, world), pixels, reading
    )


@torch.no_grad()
def _figures(
    pixels: np.ndarray, texts: Sequence[str], reward: Reward, gold: ShapesGold, reader: ShapesReading
) -> tuple[np.ndarray, ...]:
    images = to_images(pixels)
    found = reward.score(images, texts), gold.score(images, texts), gold.embed(images), reader.embed(images)
    return tuple(part.numpy() for part in found)
