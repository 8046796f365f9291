"""Makes the foreign world's pipeline, from nothing.

A Stable Diffusion in diffusers' format whose every size is another than the embedded one's: pictures of 24 x 24 pixels,
8 x 6 x 6 latents, 20 tokens of width 48, a linear noise schedule and a PNDM scheduler. It stops early on purpose, so
that it leaves something to learn.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tqdm import tqdm
from transformers import CLIPTokenizer

from benchmarks.foreign_world.judge import judge
from benchmarks.foreign_world.world import SIZE, WORDS, crowd, render, sample_caption
from cluster.arguments import Parser
from shapes.fit_pipeline import (
    Pictures,
    fit_autoencoder,
    fit_decoder,
    fit_denoiser,
    make_pipeline,
    make_text_encoder,
    reconstruct,
    save_pipeline,
    word_tokenizer,
)

_MAX_TOKENS = 20
_WIDTH = 48  # of a token
_LATENT_CHANNELS = 8
_GUIDANCE = 3.0


def make_autoencoder() -> AutoencoderKL:
    """From 3 x 24 x 24 to 8 x 6 x 6."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 48),
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        layers_per_block=1,
        latent_channels=_LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=SIZE,
    )


def make_untrained(vae: AutoencoderKL, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    """The pipeline around a trained autoencoder, with a new text encoder and UNet."""
    text_encoder = make_text_encoder(tokenizer, width=_WIDTH, intermediate=96, heads=3)
    unet = UNet2DConditionModel(
        sample_size=SIZE // 4,
        in_channels=_LATENT_CHANNELS,
        out_channels=_LATENT_CHANNELS,
        block_out_channels=(24, 48),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )
    scheduler = PNDMScheduler(skip_prk_steps=True, steps_offset=1)
    return make_pipeline(vae, tokenizer, text_encoder, unet, scheduler)


def measure(pipeline: StableDiffusionPipeline, images: int, rng: random.Random) -> dict[str, float]:
    """How often the base model is right, with as stochastic a sampler as a run's, and the autoencoder alone."""
    captions = [sample_caption(rng) for _ in range(images)]
    texts = [caption.text for caption in captions]
    sampler = StableDiffusionPipeline(
        **pipeline.components | {"scheduler": DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)},
        requires_safety_checker=False,
    )
    sampler.set_progress_bar_config(disable=True)
    drawn = [
        sampler(texts[i : i + 64], num_inference_steps=12, guidance_scale=_GUIDANCE, eta=1.0, output_type="np").images
        for i in tqdm(range(0, images, 64), desc="samples")
    ]
    renders = reconstruct(pipeline.vae, np.stack([render(caption, rng) for caption in captions])) / 255
    summary: dict[str, float] = {}
    for name, pictures in (("base", np.concatenate(drawn)), ("autoencoder", renders)):
        scores = judge(torch.from_numpy(pictures).permute(0, 3, 1, 2).float(), texts)
        summary |= {f"{name}/facts": float(scores.mean()), f"{name}/every fact": float((scores == 1).float().mean())}
    return summary


def _seeded(seed: int) -> random.Random:
    torch.manual_seed(seed)
    return random.Random(seed)


def _pictures(rng: random.Random) -> Pictures:
    """Draws captions, every other picture a crowd."""
    return lambda count: np.stack([crowd(rng) if i % 2 else render(sample_caption(rng), rng) for i in range(count)])


def main() -> None:
    """The command line."""
    parser = Parser("benchmarks.foreign_world", __doc__ or "")
    parser.add_argument("out", type=Path, help="folder to write the pipeline to; an autoencoder that it holds is kept")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is random (default: %(default)s)")
    parser.add_argument("--autoencoder-steps", type=int, default=2000, help="default: %(default)s")
    parser.add_argument("--decoder-steps", type=int, default=800, help="default: %(default)s")
    parser.add_argument("--denoiser-steps", type=int, default=3000, help="more is a better base (default: %(default)s)")
    parser.add_argument("--pictures", type=int, default=40_000, help="that the denoiser sees (default: %(default)s)")
    parser.add_argument("--images", type=int, default=512, help="samples for the summary (default: %(default)s)")
    args = parser.parse_args()

    if not (args.out / "vae").exists():
        rng = _seeded(args.seed)
        vae = make_autoencoder()
        fit_autoencoder(vae, _pictures(rng), args.autoencoder_steps, 16)
        fit_decoder(vae, _pictures(rng), args.decoder_steps, 16)
        vae.save_pretrained(args.out / "vae")
    rng = _seeded(args.seed + 1)
    vae = AutoencoderKL.from_pretrained(args.out / "vae").requires_grad_(False).to(memory_format=torch.channels_last)
    vae.register_to_config(_name_or_path="")  # keeps a local path out of the saved config
    pipeline = make_untrained(vae, word_tokenizer(args.out / "tokenizer", WORDS, _MAX_TOKENS))
    captions = [sample_caption(rng) for _ in range(args.pictures)]
    images = np.stack([render(caption, rng) for caption in captions])
    fit_denoiser(pipeline, [caption.text for caption in captions], images, args.denoiser_steps, 64)
    summary = measure(pipeline, args.images, rng)
    save_pipeline(pipeline, args.out)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
