"""Pictures of a policy, drawn once and kept: parts on disk, in a folder that is named by all that decides them.

    FOLDER/<key>/settings.json     what the key stands for
    FOLDER/<key>/part-000000.npz   pixels (B, H, W, 3) uint8 and prompt_index (B,) int64

A part has as many samples of every prompt as a rollout of about a hundred has room for, so a draw that was stopped goes
on, and a larger one begins with the parts of a smaller.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from actors.policy import Policy
from actors.rollout import rollout
from actors.trajectories import EVALUATION, Request
from cluster.records.files import replacing
from cluster.trained import Trained

_AT_A_TIME = 96
# Beside an evaluation's two lists of prompts; noise of their own, for the tilt and for what is compared with it.
TILT, COMPARED = EVALUATION + 2, EVALUATION + 3
# What decides how a pretrained model draws, whoever is trained on it.
BASE = (
    "model", "variant", "dtype", "quantise", "steps", "guidance", "guidance_rescale", "negative_prompt",
    "prompt_windows", "height", "width", "solver", "eta", "noisy_steps", "spacing", "shift", "final_sigma",
)  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """B pictures, as many of each prompt."""

    pixels: np.ndarray  # (B, H, W, 3) uint8
    groups: np.ndarray  # (B,) int64, index of the prompt


def draw(
    model: Trained, prompts: Sequence[str], images: int, folder: Path, *, seed: int, noise: int, bare: bool = False
) -> Drawn:
    """Draw at least so many pictures of a model, or read those that are there.

    Args:
        model: Who draws.
        prompts: What; each equally often.
        images: How many, rounded up to whole parts.
        folder: Where all draws are kept.
        seed: Of the noise, with
        noise: the iteration that it is keyed with.
        bare: Draw with the adapter off: the pretrained model.
    """
    each = max(1, _AT_A_TIME // len(prompts))
    config = model.policy.model_dump(mode="json")
    settings = {
        "policy": {name: config[name] for name in BASE} if bare else config,
        "adapter": None if bare else model.checksum,
        "prompts": [str(prompt) for prompt in prompts],
        "seed": seed,
        "noise": noise - EVALUATION,
        "each": each,
    }
    place = folder / _key(settings)
    with replacing(place / "settings.json") as file:
        file.write(json.dumps(settings, indent=2).encode())
    policy, parts = None, []
    for number in tqdm(range(-(-images // (each * len(prompts)))), unit="part", desc=model.name, disable=None):
        path = place / f"part-{number:06d}.npz"
        if (found := _read(path)) is None:
            policy = policy or Policy.load(model.policy)
            found = _part(policy, prompts, number, each, seed, noise, bare)
            with replacing(path) as file:
                np.savez_compressed(file, pixels=found.pixels, prompt_index=found.groups)
        parts.append(found)
    return Drawn(np.concatenate([part.pixels for part in parts]), np.concatenate([part.groups for part in parts]))


def _key(settings: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _part(policy: Policy, prompts: Sequence[str], number: int, each: int, seed: int, noise: int, bare: bool) -> Drawn:
    rows = [(prompt, number * each + sample) for prompt in range(len(prompts)) for sample in range(each)]
    index, samples = zip(*rows, strict=True)
    request = Request(seed, noise, tuple(prompts[prompt] for prompt in index), index, samples)
    with policy.using(None) if bare else nullcontext():
        pixels, _ = rollout(policy, request)
    return Drawn(np.asarray(pixels), np.array(index, np.int64))


def _read(path: Path) -> Drawn | None:
    try:
        with np.load(path) as found:
            return Drawn(found["pixels"], found["prompt_index"])
    except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
