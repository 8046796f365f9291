"""Makes everything that `shapes/pretrained` ships: `python -m shapes.pretrain` (about an hour on two cores).

Run it again only to change the world itself. Every stage has a seed; the summary that it writes beside the files says
how good the base model is.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from tqdm import tqdm

from shapes import PRETRAINED
from shapes.arguments import Parser
from shapes.captions import KINDS, Caption, sample_caption
from shapes.fit_pipeline import Pictures, fit_autoencoder, fit_decoder, fit_denoiser, reconstruct, save_pipeline
from shapes.fit_scorer import fit_scorer
from shapes.judge import gold_score
from shapes.networks import make_autoencoder, make_tokenizer, make_untrained
from shapes.render import render

STAGES = ("autoencoder", "decoder", "scorer", "denoiser", "summary")


def measure(pipeline: StableDiffusionPipeline, images: int, rng: random.Random) -> dict[str, float]:
    """How often the base model is right, and what the autoencoder alone loses."""
    summary = {}
    for split, held_out in (("train", False), ("held_out", True)):
        captions = [sample_caption(rng, held_out=held_out) for _ in range(images)]
        scores = np.array([gold_score(i, c) for i, c in zip(sample(pipeline, captions), captions, strict=True)])
        summary[f"gold/{split}"] = float(scores.mean())
        summary[f"exact/{split}"] = float((scores == 1).mean())
        for kind in KINDS:
            of_kind = np.array([caption.kind == kind for caption in captions])
            summary[f"exact/{split}/{kind}"] = float((scores[of_kind] == 1).mean())
    renders = reconstruct(pipeline.vae, np.stack([render(caption, rng) for caption in captions]))
    scores = np.array([gold_score(i, c) for i, c in zip(renders, captions, strict=True)])
    summary["exact/autoencoder"] = float((scores == 1).mean())
    return summary


def sample(
    pipeline: StableDiffusionPipeline, captions: list[Caption], steps: int = 12, guidance: float = 2.0, batch: int = 64
) -> np.ndarray:
    """Images `(B, SIZE, SIZE, 3)` uint8 of the stochastic sampler (DDIM, eta 1)."""
    pipeline.set_progress_bar_config(disable=True)
    parts = []
    for start in tqdm(range(0, len(captions), batch), desc="samples"):
        prompts = [caption.text for caption in captions[start : start + batch]]
        result = pipeline(prompts, num_inference_steps=steps, guidance_scale=guidance, eta=1.0, output_type="np")
        parts.append((result.images * 255).round().astype(np.uint8))
    return np.concatenate(parts)


def _seeded(seed: int, stage: str) -> random.Random:
    """Seed torch for a stage, and make its generator of captions and scenes."""
    torch.manual_seed(seed + STAGES.index(stage))
    return random.Random(seed + STAGES.index(stage))


def _pictures(rng: random.Random) -> Pictures:
    """Draws renderings of all captions, the held-out ones too: the autoencoder reads no prompt."""
    return lambda count: np.stack([render(sample_caption(rng, held_out=None), rng) for _ in range(count)])


def _autoencoder(folder: Path) -> AutoencoderKL:
    vae = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32).requires_grad_(False)
    vae.register_to_config(_name_or_path="")  # keeps a local path out of the saved config
    return vae.to(memory_format=torch.channels_last)


def main() -> None:
    """The command line."""
    parser = Parser("shapes.pretrain", __doc__ or "")
    parser.add_argument("--out", type=Path, default=PRETRAINED, help="folder to write (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--autoencoder-steps", type=int, default=1800)
    parser.add_argument("--decoder-steps", type=int, default=2500)
    parser.add_argument("--denoiser-steps", type=int, default=1850)
    parser.add_argument("--scorer-steps", type=int, default=1500)
    parser.add_argument(
        "--start",
        choices=STAGES,
        default=STAGES[0],
        help="first stage to run; keeps what the earlier ones left in the folder (every stage has a seed of its own)",
    )
    parser.add_argument("--pictures", type=int, default=80_000, help="renderings that the denoiser is trained on")
    parser.add_argument("--images", type=int, default=768, help="samples a split for the summary")
    args = parser.parse_args()

    folder = args.out / "pipeline"
    todo = STAGES[STAGES.index(args.start) :]
    if "autoencoder" in todo:
        rng = _seeded(args.seed, "autoencoder")
        vae = make_autoencoder()
        fit_autoencoder(vae, _pictures(rng), args.autoencoder_steps, 64)
        vae.half().save_pretrained(folder / "vae")
    if "decoder" in todo:
        rng = _seeded(args.seed, "decoder")
        vae = _autoencoder(folder)
        fit_decoder(vae, _pictures(rng), args.decoder_steps, 64)
        vae.half().save_pretrained(folder / "vae")
    if "scorer" in todo:
        rng = _seeded(args.seed, "scorer")
        scorer = fit_scorer(_autoencoder(folder), args.scorer_steps, 96, max(args.pictures // 3, 96), rng)
        scorer.half().save_pretrained(args.out / "scorer")
    if "denoiser" in todo:
        rng = _seeded(args.seed, "denoiser")
        tokenizer = make_tokenizer(folder / "tokenizer")
        captions = [sample_caption(rng) for _ in range(args.pictures)]
        images = np.stack([render(caption, rng) for caption in tqdm(captions, desc="pictures")])
        pipeline = make_untrained(_autoencoder(folder), tokenizer)
        fit_denoiser(pipeline, [caption.text for caption in captions], images, args.denoiser_steps, 128)
        save_pipeline(pipeline, folder)
    rng = _seeded(args.seed, "summary")
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32)
    pipeline.unet.to(memory_format=torch.channels_last)
    summary = measure(pipeline, args.images, rng)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
