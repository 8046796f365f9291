"""Drawn pictures as a dataset to train on: pairs of one prompt, labelled by a reward, in the columns of Pick-a-Pic."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

from cluster.errors import ConfigError
from cluster.order import Order, Picture
from cluster.records.files import writable
from cluster.records.png import read_pixels
from rewards import make_judge
from rewards.checked import Checked
from rewards.people.pick_a_pic import TIE, Pair, encode, write
from rewards.reward import Reward, to_images
from rewards.weighted import WeightedSum

_AT_ONCE = 32  # pairs that are judged together


def judge_of(order: Order, kind: str | None) -> tuple[str, Reward]:
    """What labels the pairs, and what it is called.

    Args:
        order: Of the pictures.
        kind: Of a reward, as configurations have it; `None` takes the rewards of the model's run, by their weights.

    Raises:
        ConfigError: If there is neither.
        UnknownReward, RewardUnavailable: If it cannot be had in this process.
    """
    if kind is not None:
        return kind, Checked.make(kind, lambda: make_judge(kind))
    run = order.model.run
    weights = {name: reward.weight for name, reward in run.judges.items() if reward.weight} if run else {}
    if run is None or not weights:
        raise ConfigError(
            f"{order.model.source} belongs to no run with rewards that have a weight, so nobody can say which picture "
            "of a pair is the better one; name a reward with --reward."
        )
    return " + ".join(f"{weight:g} {name}" for name, weight in weights.items()), WeightedSum.make(run.makers, weights)


def pairs_of(order: Order) -> list[tuple[Picture, Picture]]:
    """The pairs of an order: of each prompt the first two pictures by seed and sample, the next two and so on.

    A picture of the adapter and that of the bare model from the same seed are one pair. First come the first pairs of
    all prompts, so that neighbours are of different ones.

    Raises:
        ConfigError: If no prompt has two pictures.
    """
    of_prompt: dict[int, list[Picture]] = defaultdict(list)
    for picture in order:
        of_prompt[picture.facts["prompt_index"]].append(picture)
    for pictures in of_prompt.values():
        pictures.sort(key=lambda picture: (picture.facts["seed"], picture.facts["sample"], picture.facts["base"]))
    rounds = range(max(len(pictures) for pictures in of_prompt.values()) // 2)
    found = [(p[2 * n], p[2 * n + 1]) for n in rounds for p in of_prompt.values() if 2 * n + 1 < len(p)]
    if not found:
        raise ConfigError("A pair takes two pictures of a prompt; raise --samples, or give several --seeds.")
    return found


def write_pairs(
    pairs: Sequence[tuple[Picture, Picture]], out: Path, folder: Path, who: str, judge: Reward
) -> tuple[Path, int]:
    """Judge pairs whose pictures have been made, and write them as one file of a dataset.

    The same pairs under the same judge are the same file; others are another one beside it. A pair of which a picture
    is not there, or cannot be judged, is left out, and where that is all of them there is no file; equal scores are a
    tie.

    Args:
        pairs: Of `pairs_of`.
        out: Folder of the pictures.
        folder: Of the dataset.
        who: Of `judge_of`, as the judge.

    Returns:
        The file, and how many pairs are in it.

    Raises:
        WriteError: If it cannot be written.
        RewardFailed, RewardUnavailable: If the judge does not answer.
    """
    said = json.dumps([who, *(picture.facts for pair in pairs for picture in pair)], sort_keys=True)
    path = folder / f"pairs-{hashlib.sha256(said.encode()).hexdigest()[:12]}.parquet"
    judged = _judged(pairs, out, judge)
    if (first := next(judged, None)) is None:
        return path, 0
    with writable(folder):
        return path, write(path, chain([first], judged))


def _judged(pairs: Sequence[tuple[Picture, Picture]], out: Path, judge: Reward) -> Iterator[Pair]:
    there = (pair for pair in pairs if all((out / picture.name).exists() for picture in pair))
    while group := list(islice(there, _AT_ONCE)):
        pictures = [picture for pair in group for picture in pair]
        pixels = np.stack([np.asarray(read_pixels(out / picture.name)) for picture in pictures])
        with torch.no_grad():
            scores = judge.score(to_images(pixels), [p.job.request.prompts[p.row] for p in pictures]).tolist()
        for number, (first, second) in enumerate(group):
            own, other = scores[2 * number : 2 * number + 2]
            if np.isfinite([own, other]).all():
                files = encode(pixels[2 * number]), encode(pixels[2 * number + 1])
                label = TIE if own == other else float(own > other)
                yield Pair(first.facts["prompt"], files, label, uids=(first.name, second.name))
