"""For the prompt lists that `prompts/` ships: `python -m shapes.choose_prompts`, after `shapes.pretrain`.

A policy can learn a prompt whose pictures the base model draws right now and then and whose faults the scorer sees:
where the best image of eight by the scorer's word has a better gold score than most. And one small adapter can learn
together what has words in common. So the composition where the best of eight gains most gives two colours, and of the
training prompts in these colours, but for those of a place, whose words the base models hardly know, those are chosen
that gain most. Both rankings are printed, and with `--write` the head of the second is written down; the shipped
`teachable.txt` and `second_teachable.txt` have eight. With it go the held-out combinations of `held_out.txt`, drawn at
random, of all kinds. `hard.txt` was picked by hand.
"""

from __future__ import annotations

import random
from math import comb
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from shapes import FOLDERS, SCORERS
from shapes.arguments import Parser, positive
from shapes.captions import KINDS, Caption, all_captions
from shapes.judge import gold_score
from shapes.pretrain import sample
from shapes.scorer import Scorer
from shapes.worlds import FIRST, WORLDS


def main() -> None:
    """The command line."""
    parser = Parser("shapes.choose_prompts", __doc__ or "")
    parser.add_argument("--world", choices=WORLDS, default=FIRST.name, help="default: %(default)s")
    parser.add_argument("--pipeline", type=Path, help="default: the world's own")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "prompts")
    parser.add_argument("--candidates", type=positive, default=96, help="compositions that are tried for their colours")
    parser.add_argument("--samples", type=positive, default=16, help="images of each; the best get eight times as many")
    parser.add_argument("--best", type=positive, default=12, help="prompts that get them, and are printed")
    parser.add_argument("--among", type=positive, default=8, help="images of which the scorer chooses the best")
    parser.add_argument("--held-out", type=positive, default=8, help="held-out prompts of each kind")
    parser.add_argument("--write", type=positive, metavar="N", help="write both lists, the first of N prompts")
    args = parser.parse_args()
    if args.samples < args.among:
        parser.error(f"--samples must be at least --among, which is {args.among}.")
    if (args.write or 0) > args.best:
        parser.error(f"--write must be at most --best, which is {args.best}.")

    world, folder = WORLDS[args.world], args.pipeline or FOLDERS[args.world] / "pipeline"
    torch.manual_seed(0)
    rng = random.Random(0)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.unet.to(memory_format=torch.channels_last)
    scorer = Scorer.from_pretrained(SCORERS[world.name]).float().eval().requires_grad_(False)
    # All draws come first and from one stream, so that the shipped held-out lists stay whatever is measured.
    training, tried, held_out = {}, {}, []
    for kind in KINDS:
        captions = all_captions(kind, backgrounds=False, world=world)
        training[kind] = [caption for caption in captions if not caption.held_out]
        tried[kind] = rng.sample(training[kind], min(args.candidates, len(training[kind])))
        others = [caption for caption in captions if caption.held_out]
        held_out += rng.sample(others, min(args.held_out, len(others)))

    def ranked(captions: list[Caption]) -> list[Caption]:
        """The captions that gain most, printed."""
        # Twice, because the best of many short samples are so by chance.
        for samples in (args.samples, 8 * args.samples):
            repeated = [caption for caption in captions for _ in range(samples)]
            images = sample(pipeline, repeated)
            gold = np.array([gold_score(i, c) for i, c in zip(images, repeated, strict=True)])
            gold = gold.reshape(len(captions), samples)
            gain = gain_of_best(gold, _judged(scorer, images, repeated).reshape(gold.shape), args.among)
            order = (-gain).argsort(kind="stable")[: args.best]
            means, right = gold.mean(axis=1), (gold == 1).mean(axis=1)
            head = f"best of {args.among}"
            table = [
                f"{head} {gain[i]:+.3f}, gold {means[i]:.2f}, right {right[i]:.2f}  {captions[i].text}" for i in order
            ]
            captions = [captions[i] for i in order]
        print("\n".join(table), flush=True)
        return captions

    colours = _colours(ranked(tried["composition"])[0])
    print(f"in {' and '.join(sorted(colours))}:")
    known = [caption for kind in KINDS if kind != "location" for caption in training[kind]]
    teachable = ranked([caption for caption in known if _colours(caption) <= colours])
    if args.write is None:
        return
    args.out.mkdir(parents=True, exist_ok=True)
    prefix = "" if world is FIRST else f"{world.name}_"
    for name, captions in (("teachable", teachable[: args.write]), ("held_out", held_out)):
        (args.out / f"{prefix}{name}.txt").write_text("".join(f"{caption.text}\n" for caption in captions))


def _colours(caption: Caption) -> set[str]:
    return {thing.colour for thing in caption.things}


@torch.no_grad()
def _judged(scorer: Scorer, images: np.ndarray, captions: list[Caption]) -> np.ndarray:
    """What the learned scorer says, `(B,)`."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).split(256)
    words = scorer.tokenize([caption.text for caption in captions]).split(256)
    return torch.cat([scorer(p.float() / 255, w) for p, w in zip(pixels, words, strict=True)]).numpy()


def gain_of_best(gold: np.ndarray, reward: np.ndarray, of: int) -> np.ndarray:
    """How much better than all are the images that are best by a reward among so many, by the gold score.

    The mean over all subsets (Nakano et al., WebGPT, arXiv 2112.09332, appendix I). It is small where the base model is
    right already or always wrong, and where the reward does not see what is wrong.

    Args:
        gold: `(prompts, samples)`.
        reward: The same.
        of: Of how many the best is taken; at most `samples`.

    Returns:
        `(prompts,)`, in units of the gold score.
    """
    samples = gold.shape[1]
    # A sample is the best of those subsets whose others all rank below it.
    best = np.array([comb(below, of - 1) for below in range(samples)]) / comb(samples, of)
    return np.take_along_axis(gold, reward.argsort(axis=1, kind="stable"), axis=1) @ best - gold.mean(axis=1)


if __name__ == "__main__":
    main()
