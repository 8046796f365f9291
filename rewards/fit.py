"""Makes a reward from what people chose: a small Bradley-Terry head on the features of a reward that has some.

    python -m rewards.fit DATASET --features shapes_agreement --out taste
    python -m cluster.local rewards.taste.kind=fitted rewards.taste.options.path=taste rewards.taste.weight=1

DATASET has the columns of Pick-a-Pic: one Parquet file, or a folder of them, such as choices are exported to. Ties
count as half; pairs of which both are bad or nobody chose are left out. The score of the reward is a feature as well
where it has a gradient, so that the prompt counts. The head is linear. How well it does is said of pairs held out from
it in five folds, no picture on both sides; what is saved is fitted to all pairs.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from torch import Tensor

from rewards import REWARDS, make_reward, reward_class
from rewards.checked import Checked
from rewards.errors import RewardFailed, RewardUnavailable, UnknownReward
from rewards.fitted import Head, features
from rewards.options import check_options
from rewards.people import bradley_terry
from rewards.people.pick_a_pic import TIE, Corrupt, caption_of, decode, label_of, read_index, read_rows
from rewards.reward import Reward, to_images
from shapes.arguments import Parser, one_line, positive

_LEAST = 10  # choices
_AT_ONCE = 16  # pairs that the reward is shown


class Choice(NamedTuple):
    """A pair that somebody chose between."""

    prompt: str
    label: float  # 1: the first was chosen
    pixels: tuple[np.ndarray, np.ndarray]  # (H, W, 3) uint8
    names: tuple[bytes, bytes]  # SHA-256 of the pictures' files


def read(path: Path, split: str | None, most: int | None, seed: int, left_out: Counter[str]) -> Iterator[Choice]:
    """The choices of a dataset, in order.

    Args:
        path: See `rewards.people.pick_a_pic.read_index`.
        split: See there.
        most: Rows to look at, drawn by the seed; all if there are fewer, or it is `None`.
        seed: Of the draw.
        left_out: Counts rows that are none, by why.

    Raises:
        ValueError: If there is no such dataset; the sentence has no full stop.
        OSError: If a file is gone.
    """
    index = read_index(path, split)
    drawn = np.sort(np.random.default_rng(seed).permutation(index.rows)[:most])
    ends = np.cumsum(index.sizes)
    for (file, group), size, end in zip(index.groups, index.sizes, ends, strict=True):
        rows = [int(row - end + size) for row in drawn[(drawn >= end - size) & (drawn < end)]]
        try:
            found = list(read_rows(index.files[file], group, rows))
        except Corrupt:
            left_out["corrupt"] += len(rows)
            continue
        for row in found:
            try:
                label, prompt = label_of(row), caption_of(row)
                if label is None:
                    left_out["both bad" if row.get("both_bad") else "without a choice"] += 1
                else:
                    files = row["jpg_0"], row["jpg_1"]
                    first, second = (decode(data) for data in files)
                    one, other = (sha256(data).digest() for data in files)
                    yield Choice(prompt, label, (first, second), (one, other))
            except Corrupt:
                left_out["corrupt"] += 1


@torch.no_grad()
def features_of(reward: Reward, choices: Sequence[Choice], scored: bool) -> Tensor:
    """Features `(N, 2, D)` of both pictures of each choice, NaN where the reward cannot judge one.

    Args:
        reward: Has features.
        choices: N of them, their pictures of any sizes.
        scored: See `rewards.fitted.features`.
    """
    shown = [(picture, choice.prompt) for choice in choices for picture in choice.pixels]
    found: dict[int, Tensor] = {}
    for shape in {picture.shape for picture, _ in shown}:
        places = [place for place, (picture, _) in enumerate(shown) if picture.shape == shape]
        images = to_images(np.stack([shown[place][0] for place in places]))
        found |= dict(zip(places, features(reward, images, [shown[place][1] for place in places], scored), strict=True))
    return torch.stack([found[place] for place in range(len(shown))]).unflatten(0, (-1, 2))


def fit(kind: str, options: Mapping[str, Any], choices: Iterator[Choice], seed: int, left_out: Counter[str]) -> Head:
    """Fit a head, and look how it does on pairs that are held out.

    Args:
        kind: Of the reward that has the features.
        options: Of it.
        choices: Are read once, a few at a time.
        seed: Of the folds.
        left_out: Counts choices that the reward cannot judge.

    Raises:
        UnknownReward: If there is no such reward.
        RewardUnavailable: If it cannot be built.
        RewardFailed: If it raises.
        ValueError: If it has no features, does not take the options, or there are too few choices.
    """
    if reward_class(kind).embed is Reward.embed:
        able = [name for name in REWARDS if reward_class(name).embed is not Reward.embed]
        raise ValueError(f"The reward {kind!r} has no image features; of ours {', '.join(able)} have some.")
    check_options(kind, options)
    made = Checked.make(kind, lambda: make_reward(kind, **options))
    scored, shown, labels, names = made.differentiable, [], [], []
    sample: Choice | None = None
    while some := list(islice(choices, _AT_ONCE)):
        for choice, both in zip(some, features_of(made, some, scored), strict=True):
            if not both.isfinite().all():
                left_out["not judged"] += 1
                continue
            sample = sample or choice
            shown.append(both.numpy())
            labels.append(choice.label)
            names.append(choice.names)
    y = np.array(labels)
    if sample is None or (y != TIE).sum() < _LEAST:
        raise ValueError(
            f"There are {int((y != TIE).sum())} pairs of which one picture was chosen, and a reward takes {_LEAST} at "
            f"least{_said(left_out, '; left out: ')}."
        )
    x = np.stack(shown).astype(np.float64)
    mean, spread = x.mean(axis=(0, 1)), x.std(axis=(0, 1))
    scale = np.where(spread > 1e-6, spread, 1.0)  # what is the same in all pictures says nothing
    if scored:  # beforehand it counts as much as all the others together, among which decay would lose it
        scale[-1] /= (len(scale) - 1) ** 0.5
    differences = (x[:, 0] - x[:, 1]) / scale
    numbers = {name: number for number, name in enumerate(sorted({name for both in names for name in both}))}
    groups = bradley_terry.connected(np.array([[numbers[name] for name in both] for both in names]))
    decay = bradley_terry.choose_decay(differences, y, groups, seed)
    weight = bradley_terry.fit(differences, y, decay)
    logits = bradley_terry.judge_held_out(differences, y, groups, seed)
    bins = bradley_terry.reliability(logits, y)
    report: dict[str, Any] = {
        "pairs": len(y),
        "ties": int((y == TIE).sum()),
        "left_out": dict(left_out),
        "groups": len(set(groups)),
        "decay": decay,
        "accuracy": bradley_terry.accuracy(logits, y),
        "log_loss": bradley_terry.log_loss(logits, y),
        "reliability": [vars(own) for own in bins],
        "calibration_error": bradley_terry.calibration_error(bins),
    }
    if scored:
        report["accuracy_of_score"] = bradley_terry.accuracy(differences[:, -1], y)
    numbers_of = {"weight": weight, "mean": mean, "scale": scale, "features": x[0, 0]}
    tensors = {name: torch.tensor(value, dtype=torch.float32) for name, value in numbers_of.items()}
    tensors["picture"] = torch.tensor(sample.pixels[0])
    return Head(kind, options, scored, _flows(made, sample, scored), sample.prompt, tensors, report)


def _flows(reward: Reward, choice: Choice, scored: bool) -> bool:
    """Whether gradients flow from features into images."""
    with torch.enable_grad():
        leaf = to_images(choice.pixels[0][None]).requires_grad_()
        return features(reward, leaf, [choice.prompt], scored).requires_grad


def _said(left_out: Counter[str], before: str) -> str:
    return before + ", ".join(f"{count:,} {why}" for why, count in left_out.items()) if left_out else ""


def lines(head: Head) -> list[str]:
    """What was found, for a terminal."""
    report = head.report
    dimensions = len(head.tensors["weight"]) - head.scored
    score = " and its score" if head.scored else ""
    apart = "no picture on both sides" if report["groups"] > 1 else "but all pairs hang together by their pictures"
    left_out = _said(Counter(report["left_out"]), "; left out: ")
    said = [
        f"{report['pairs']:,} pairs, {report['ties']:,} of them ties{left_out}",
        f"{dimensions} features of {head.kind}{score}, weight decay {report['decay']:g}",
        f"held out, {apart}: accuracy {_interval(report['accuracy'])}, log loss {report['log_loss']:.3f}",
    ]
    if head.scored:
        said.append(f"the score of {head.kind} alone: accuracy {_interval(report['accuracy_of_score'])}")
    said.append(f"expected calibration error {report['calibration_error']:.3f}")
    said.append("  sure      mean  right  pairs")
    for own in report["reliability"]:
        said.append(
            f"  {own['low']:.1f}-{own['low'] + 0.1:.1f}   {own['sure']:.3f}  {own['right']:.3f}  {own['pairs']:5d}"
        )
    return said


def _interval(found: Sequence[float]) -> str:
    rate, low, high = found
    return f"{rate:.3f} ({low:.3f} to {high:.3f})"


def option(text: str) -> tuple[str, Any]:
    """The `type` of an argument that is an option of a reward."""
    name, equals, value = text.partition("=")
    try:
        if name and equals:
            return name, yaml.safe_load(value)
    except yaml.YAMLError:
        pass
    raise argparse.ArgumentTypeError(f"{text[:80]!r} is not NAME=VALUE, such as checkpoint=second")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit what the command line asks for; returns the exit status."""
    parser = Parser("rewards.fit", __doc__ or "")
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="a Parquet file, or a folder of them")
    parser.add_argument("--features", default="shapes_agreement", metavar="REWARD", help="default: %(default)s")
    parser.add_argument("--option", type=option, action="append", default=[], metavar="NAME=VALUE", help="of REWARD")
    parser.add_argument("--out", type=Path, default=Path("fitted"), metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--split", metavar="NAME", help="of the folder the files of this split alone, such as train")
    parser.add_argument("--rows", type=positive, metavar="N", help="look at N rows, drawn by the seed (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of rows and folds (default: %(default)s)")
    args = parser.parse_args(arguments)
    left_out = Counter[str]()
    try:
        if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
            raise ValueError(f"{args.out} is there already, and a run may use it; give another --out.")
        choices = read(args.dataset, args.split, args.rows, args.seed, left_out)
        head = fit(args.features, dict(args.option), choices, args.seed, left_out)
        head.save(args.out)
    except (UnknownReward, RewardUnavailable, RewardFailed, ValueError, OSError) as error:
        print(f"error: {one_line(error).rstrip('.')}.", file=sys.stderr)
        return 1
    print(*lines(head), f"rewards: {{taste: {{kind: fitted, options: {{path: {args.out}}}}}}}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
