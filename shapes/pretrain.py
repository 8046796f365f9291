"""Makes what `shapes/pretrained` ships of a world: `python -m shapes.pretrain --world second` (about two hours of one
core for the first world, three quarters of an hour for the second).

Run it again only to change the world itself. Every stage has a seed; a run that was stopped goes on with the same
command, to the same files. The summary that it writes beside the files says how good the base model is.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from tqdm import tqdm

from shapes import FOLDERS
from shapes.arguments import Parser
from shapes.captions import KINDS, Caption, sample_caption
from shapes.fit_pipeline import Pictures, fit_autoencoder, fit_decoder, fit_denoiser, reconstruct, save_pipeline
from shapes.fit_scorer import fit_scorer
from shapes.judge import gold_score
from shapes.networks import make_autoencoder, make_tokenizer, make_untrained
from shapes.render import render
from shapes.resumable import Keep
from shapes.worlds import FIRST, WORLDS, World

STAGES = ("autoencoder", "decoder", "scorer", "denoiser", "summary")


@dataclass(frozen=True)
class Recipe:
    """How long each part is trained, and on what.

    Args:
        autoencoder: Optimizer steps, and pictures of each.
        decoder: The same.
        scorer: Optimizer steps, and sets of pictures of each.
        denoiser: As of the autoencoder.
        pictures: Renderings that the denoiser sees.
        sets: Of pictures that the scorer sees.
        after: The world whose autoencoder and denoiser this one's begin with; `None` begins with nothing.
    """

    autoencoder: tuple[int, int]
    decoder: tuple[int, int]
    scorer: tuple[int, int]
    denoiser: tuple[int, int]
    pictures: int
    sets: int
    after: str | None = None


RECIPES = {
    "first": Recipe((1800, 64), (2500, 64), (1500, 96), (1850, 128), 80_000, 26_666),
    "second": Recipe((300, 24), (400, 24), (1500, 48), (1500, 64), 24_000, 12_000, after="first"),
}


def measure(
    pipeline: StableDiffusionPipeline, images: int, rng: random.Random, world: World = FIRST
) -> dict[str, float]:
    """How often the base model is right, and what the autoencoder alone loses."""
    summary = {}
    for split, held_out in (("train", False), ("held_out", True)):
        captions = [sample_caption(rng, held_out=held_out, world=world) for _ in range(images)]
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
    """Images `(B, size, size, 3)` uint8 of the stochastic sampler (DDIM, eta 1)."""
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


def _pictures(rng: random.Random, world: World) -> Pictures:
    """Draws renderings of all captions, the held-out ones too: the autoencoder reads no prompt."""
    return lambda count: np.stack([render(sample_caption(rng, held_out=None, world=world), rng) for _ in range(count)])


def _autoencoder(folder: Path) -> AutoencoderKL:
    vae = AutoencoderKL.from_pretrained(folder / "vae", dtype=torch.float32).requires_grad_(False)
    vae.register_to_config(_name_or_path="")  # keeps a local path out of the saved config
    return vae.to(memory_format=torch.channels_last)


def _load(world: str) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(FOLDERS[world] / "pipeline", dtype=torch.float32)


def _begin_with(pipeline: StableDiffusionPipeline, other: StableDiffusionPipeline) -> None:
    """Give a pipeline's UNet and text encoder the weights of another world's, but for the words."""
    pipeline.unet.load_state_dict(other.unet.state_dict())
    known = {name: t for name, t in other.text_encoder.state_dict().items() if "token_embedding" not in name}
    pipeline.text_encoder.load_state_dict(known, strict=False)


def _make(stage: str, out: Path, recipe: Recipe, world: World, rng: random.Random, keep: Keep) -> None:
    """Make what a stage is for, from what the stages before it left in the folder."""
    folder = out / "pipeline"
    if stage == "autoencoder":
        vae = make_autoencoder(world)
        if recipe.after:
            vae.load_state_dict(_load(recipe.after).vae.state_dict())
        fit_autoencoder(vae, _pictures(rng, world), *recipe.autoencoder, keep)
        vae.half().save_pretrained(folder / "vae")
    elif stage == "decoder":
        vae = _autoencoder(folder)
        fit_decoder(vae, _pictures(rng, world), *recipe.decoder, keep)
        vae.half().save_pretrained(folder / "vae")
    elif stage == "scorer":
        sets = max(recipe.sets, recipe.scorer[1])
        scorer = fit_scorer(_autoencoder(folder), *recipe.scorer, sets, rng, world, keep)
        scorer.half().save_pretrained(out / "scorer")
    else:
        tokenizer = make_tokenizer(folder / "tokenizer", world)
        captions = [sample_caption(rng, world=world) for _ in range(recipe.pictures)]
        images = np.stack([render(caption, rng) for caption in tqdm(captions, desc="pictures")])
        pipeline = make_untrained(_autoencoder(folder), tokenizer)
        if recipe.after:
            _begin_with(pipeline, _load(recipe.after))
        fit_denoiser(pipeline, [caption.text for caption in captions], images, *recipe.denoiser, keep)
        save_pipeline(pipeline, folder)


def main() -> None:
    """The command line."""
    parser = Parser("shapes.pretrain", __doc__ or "")
    parser.add_argument("--world", choices=WORLDS, default=FIRST.name, help="default: %(default)s")
    parser.add_argument("--out", type=Path, help="folder to write (default: the world's in shapes/pretrained)")
    parser.add_argument("--seed", type=int, default=0)
    for stage in STAGES[:-1]:
        parser.add_argument(f"--{stage}-steps", type=int, help="default: the world's own")
    parser.add_argument(
        "--start",
        choices=STAGES,
        default=STAGES[0],
        help="first stage to run; keeps what the earlier ones left in the folder (every stage has a seed of its own)",
    )
    parser.add_argument(
        "--pictures",
        type=int,
        help="renderings that the denoiser sees, and three times the scorer's sets (default: the world's)",
    )
    parser.add_argument("--images", type=int, default=768, help="samples a split for the summary")
    args = parser.parse_args()

    world, out = WORLDS[args.world], args.out or FOLDERS[args.world]
    recipe = _recipe(args)
    # Kept until all is made: what says how far a run came that was stopped.
    unfinished = out / "unfinished"
    _same_run(unfinished / "settings.json", {"world": world.name, "seed": args.seed, **asdict(recipe)}, parser)
    for stage in STAGES[STAGES.index(args.start) : -1]:
        done = unfinished / f"{stage}.done"
        if not done.exists():
            rng = _seeded(args.seed, stage)
            _make(stage, out, recipe, world, rng, Keep(unfinished / f"{stage}.pt", rng))
            done.touch()
    rng = _seeded(args.seed, "summary")
    pipeline = StableDiffusionPipeline.from_pretrained(out / "pipeline", dtype=torch.float32)
    pipeline.unet.to(memory_format=torch.channels_last)
    summary = measure(pipeline, args.images, rng, world)
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))
    shutil.rmtree(unfinished)


def _recipe(args: argparse.Namespace) -> Recipe:
    """The world's recipe, with what the command line says."""
    recipe = RECIPES[args.world]
    steps = {stage: getattr(args, f"{stage}_steps") for stage in STAGES[:-1]}
    asked: dict[str, Any] = {
        stage: (count, getattr(recipe, stage)[1]) for stage, count in steps.items() if count is not None
    }
    if args.pictures:
        asked |= {"pictures": args.pictures, "sets": args.pictures // 3}
    return replace(recipe, **asked)


def _same_run(file: Path, settings: dict[str, Any], parser: Parser) -> None:
    """Write down what a run does, and refuse to go on with one that did something else."""
    text = json.dumps(settings, indent=2)
    if file.exists() and file.read_text() != text:
        parser.error(f"{file.parent} is left of a run with other settings; give its settings, or remove the folder")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


if __name__ == "__main__":
    main()
