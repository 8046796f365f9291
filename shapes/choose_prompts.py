"""For the prompt lists that `prompts/` ships: `python -m shapes.choose_prompts`, after `shapes.pretrain`.

Prints, of each kind, the training prompts on which the base model scores worst without being hopeless, and draws the
held-out combinations of `held_out.txt`. The eight of `hard.txt` were picked by hand from the heads of these lists; why
so, docs/main_job.md says.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline

from shapes import PIPELINE
from shapes.arguments import Parser
from shapes.captions import KINDS, all_captions
from shapes.judge import gold_score
from shapes.pretrain import sample

_HOPELESS = 0.1  # share of samples that are right; below this there are hardly any to prefer


def main() -> None:
    """The command line."""
    parser = Parser("shapes.choose_prompts", __doc__ or "")
    parser.add_argument("--pipeline", type=Path, default=PIPELINE)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "prompts")
    parser.add_argument("--candidates", type=int, default=96, help="training prompts of each kind that are tried")
    parser.add_argument("--samples", type=int, default=16, help="images of each; the worst get eight times as many")
    parser.add_argument("--worst", type=int, default=12, help="prompts of each kind that get them, and are printed")
    parser.add_argument("--held-out", type=int, default=8, help="held-out prompts of each kind")
    args = parser.parse_args()

    torch.manual_seed(0)
    rng = random.Random(0)
    pipeline = StableDiffusionPipeline.from_pretrained(args.pipeline, dtype=torch.float32)
    pipeline.unet.to(memory_format=torch.channels_last)
    held_out = []
    for kind in KINDS:
        captions = all_captions(kind, backgrounds=False)
        training = [caption for caption in captions if not caption.held_out]
        ranked = rng.sample(training, min(args.candidates, len(training)))
        # Twice, because the worst of many short samples are so by chance.
        for samples in (args.samples, 8 * args.samples):
            repeated = [caption for caption in ranked for _ in range(samples)]
            scores = np.array([gold_score(i, c) for i, c in zip(sample(pipeline, repeated), repeated, strict=True)])
            scores = scores.reshape(len(ranked), samples)
            means, right = scores.mean(axis=1), (scores == 1).mean(axis=1)
            order = [i for i in means.argsort() if right[i] >= _HOPELESS][: args.worst]
            table = [f"{kind:12s} gold {means[i]:.2f}, right {right[i]:.2f}  {ranked[i].text}" for i in order]
            ranked = [ranked[i] for i in order]
        print("\n".join(table), flush=True)
        others = [caption for caption in captions if caption.held_out]
        held_out += rng.sample(others, min(args.held_out, len(others)))
    args.out.mkdir(exist_ok=True)
    (args.out / "held_out.txt").write_text("".join(f"{caption.text}\n" for caption in held_out))


if __name__ == "__main__":
    main()
