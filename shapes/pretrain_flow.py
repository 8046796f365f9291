"""Trains the flow matching twin of the embedded world's pipeline: `python -m shapes.pretrain_flow`.

Its UNet begins with the weights of `pretrained/pipeline` and learns velocities on the same latents and captions; the
other parts are that pipeline's own files, by links. The summary that it writes beside compares the two.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from tqdm import tqdm

from shapes import FLOW_PIPELINE, PIPELINE, PRETRAINED
from shapes.arguments import Parser
from shapes.captions import sample_caption
from shapes.fit_pipeline import fit_denoiser
from shapes.networks import make_flow_twin
from shapes.pretrain import measure
from shapes.render import render

_SHARED = ("vae", "text_encoder", "tokenizer")


def save_twin(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write what is its own, in half precision, beside links to what the two pipelines share."""
    folder.mkdir(parents=True, exist_ok=True)
    pipeline.unet.half().save_pretrained(folder / "unet")
    pipeline.save_config(folder)
    pipeline.scheduler.save_pretrained(folder / "scheduler")
    for name in _SHARED:
        if not (folder / name).exists():
            (folder / name).symlink_to(Path("..", PIPELINE.name, name))


def load(folder: Path) -> StableDiffusionPipeline:
    """A pipeline in single precision, in the layout that convolutions are fast in."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.unet.to(memory_format=torch.channels_last)
    return pipeline


def main() -> None:
    """The command line."""
    parser = Parser("shapes.pretrain_flow", __doc__ or "")
    parser.add_argument("--out", type=Path, default=PRETRAINED, help="folder with `pipeline` (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps; 0 measures what is there")
    parser.add_argument("--pictures", type=int, default=24_000, help="renderings that it is trained on")
    parser.add_argument("--images", type=int, default=512, help="samples a split for the summary")
    args = parser.parse_args()

    folder = args.out / FLOW_PIPELINE.name
    if args.steps:
        torch.manual_seed(args.seed)
        rng = random.Random(args.seed)
        captions = [sample_caption(rng) for _ in range(args.pictures)]
        images = np.stack([render(caption, rng) for caption in tqdm(captions, desc="pictures")])
        twin = make_flow_twin(load(args.out / PIPELINE.name))
        fit_denoiser(twin, [caption.text for caption in captions], images, args.steps, 128)
        save_twin(twin, folder)
    summary = {}
    for name in (PIPELINE.name, FLOW_PIPELINE.name):
        torch.manual_seed(args.seed + 1)
        summary[name] = measure(load(args.out / name), args.images, random.Random(args.seed + 1))
    (args.out / "flow_summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
