"""For the prompt lists that `prompts/` ships: `python -m shapes.choose_prompts`, after `shapes.pretrain`.

Prints, of each kind, the training prompts on which the base model scores worst without being hopeless and how well the
scorer agrees with the gold score on them, and draws the held-out combinations of `held_out.txt`. With `--hardest`,
the heads of these lists are written down; the shipped `hardest.txt` and `second_hardest.txt` have two of each kind.
`hard.txt` was picked by hand from such lists.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from shapes import FOLDERS, SCORERS
from shapes.arguments import Parser
from shapes.captions import KINDS, Caption, all_captions
from shapes.judge import gold_score
from shapes.pretrain import sample
from shapes.scorer import Scorer
from shapes.worlds import FIRST, WORLDS

_HOPELESS = 0.25  # share of samples that are right; what chance gives of the four places, which no base knows


def main() -> None:
    """The command line."""
    parser = Parser("shapes.choose_prompts", __doc__ or "")
    parser.add_argument("--world", choices=WORLDS, default=FIRST.name, help="default: %(default)s")
    parser.add_argument("--pipeline", type=Path, help="default: the world's own")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "prompts")
    parser.add_argument("--candidates", type=int, default=96, help="training prompts of each kind that are tried")
    parser.add_argument("--samples", type=int, default=16, help="images of each; the worst get eight times as many")
    parser.add_argument("--worst", type=int, default=12, help="prompts of each kind that get them, and are printed")
    parser.add_argument("--held-out", type=int, default=8, help="held-out prompts of each kind")
    parser.add_argument("--hardest", type=int, default=0, help="how many of each kind are written; 0 writes none")
    args = parser.parse_args()

    world, folder = WORLDS[args.world], args.pipeline or FOLDERS[args.world] / "pipeline"
    torch.manual_seed(0)
    rng = random.Random(0)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.unet.to(memory_format=torch.channels_last)
    scorer = Scorer.from_pretrained(SCORERS[world.name]).float().eval().requires_grad_(False)
    hardest, held_out = [], []
    for kind in KINDS:
        captions = all_captions(kind, backgrounds=False, world=world)
        training = [caption for caption in captions if not caption.held_out]
        ranked = rng.sample(training, min(args.candidates, len(training)))
        # Twice, because the worst of many short samples are so by chance.
        for samples in (args.samples, 8 * args.samples):
            repeated = [caption for caption in ranked for _ in range(samples)]
            images = sample(pipeline, repeated)
            scores = np.array([gold_score(i, c) for i, c in zip(images, repeated, strict=True)])
            scores = scores.reshape(len(ranked), samples)
            means, right = scores.mean(axis=1), (scores == 1).mean(axis=1)
            order = [i for i in means.argsort() if right[i] >= _HOPELESS][: args.worst]
            table = [f"{kind:12s} gold {means[i]:.2f}, right {right[i]:.2f}  {ranked[i].text}" for i in order]
            agreement = _correlation(scores, _judged(scorer, images, repeated).reshape(scores.shape))
            ranked = [ranked[i] for i in order]
        print("\n".join(table))
        print(f"{kind:12s} correlation of gold and scorer within a prompt {agreement:.2f}", flush=True)
        hardest += ranked[: args.hardest]
        others = [caption for caption in captions if caption.held_out]
        held_out += rng.sample(others, min(args.held_out, len(others)))
    args.out.mkdir(exist_ok=True)
    prefix = "" if world is FIRST else f"{world.name}_"
    for name, captions in (("hardest", hardest), ("held_out", held_out)):
        if captions:
            (args.out / f"{prefix}{name}.txt").write_text("".join(f"{caption.text}\n" for caption in captions))


@torch.no_grad()
def _judged(scorer: Scorer, images: np.ndarray, captions: list[Caption]) -> np.ndarray:
    """What the learned scorer says, `(B,)`."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).split(256)
    words = scorer.tokenize([caption.text for caption in captions]).split(256)
    return torch.cat([scorer(p.float() / 255, w) for p, w in zip(pixels, words, strict=True)]).numpy()


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two arrays `(prompts, samples)`, around each prompt's means."""
    a, b = (scores - scores.mean(axis=1, keepdims=True) for scores in (a, b))
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


if __name__ == "__main__":
    main()
