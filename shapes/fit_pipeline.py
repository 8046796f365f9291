"""Trains the world's Stable Diffusion: tokenizer, autoencoder, decoder once more, then text encoder and UNet together.

The parts are diffusers' and transformers' own classes, only small; the noise schedule is Stable Diffusion 1.5's. What
was left out against the real thing: adversarial and perceptual losses of the autoencoder, and a pretrained text encoder
(the two layers here are trained with the UNet).
"""

from __future__ import annotations

import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from shapes.captions import KINDS, all_captions, sample_caption
from shapes.render import SIZE, render

MAX_TOKENS = 16
_CAPTION_DROPOUT = 0.1  # trains the unconditional branch of classifier-free guidance


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer whose byte-pair merges make one token of every word of the grammar."""
    words = sorted({word for kind in KINDS for caption in all_captions(kind) for word in caption.text.split()})
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    merges = _learn_merges(words)
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), *("".join(pair) for pair in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return CLIPTokenizer.from_pretrained(folder)


def _learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges until every word is one token; ties go by the alphabet, so that every run learns the same."""
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges = []
    while counts := Counter(pair for word in pieces for pair in pairwise(word)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for word in pieces:
            for i in range(len(word) - 2, -1, -1):
                if tuple(word[i : i + 2]) == best:
                    word[i : i + 2] = ["".join(best)]
    return merges


def to_tensor(images: np.ndarray) -> Tensor:
    """`(B, H, W, 3)` uint8 to `(B, 3, H, W)` float32 in [-1, 1], channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def fit_autoencoder(steps: int, batch: int, rng: random.Random) -> AutoencoderKL:
    """Train an AutoencoderKL from `SIZE` pixels to latents `(4, SIZE / 4, SIZE / 4)`."""
    vae = AutoencoderKL(
        block_out_channels=(24, 48, 64),
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    progress = tqdm(range(steps), desc="autoencoder")
    for _ in progress:
        x = to_tensor(_pictures(batch, rng))
        posterior = vae.encode(x).latent_dist
        error = vae.decode(posterior.sample()).sample - x
        # The prior's weight is small: latents need to be smooth enough to denoise, not Gaussian.
        loss = error.abs().mean() + error.square().mean() + 3e-4 * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(l1=f"{error.abs().mean().item():.4f}", refresh=False)
    vae.eval().requires_grad_(False)
    images = _pictures(512, rng)
    scale = 1 / encode(vae, images).std().item()  # encode() applies the old factor, so undo it
    vae.register_to_config(scaling_factor=scale * vae.config.scaling_factor)
    return vae


def fit_decoder(vae: AutoencoderKL, steps: int, batch: int, rng: random.Random) -> None:
    """Train the decoder alone for longer, in place, as Stable Diffusion's own was (sd-vae-ft-mse).

    The latents stay as they are. Without it every second star came back as a blob: edges count here as much as areas.
    """
    parameters = [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    progress = tqdm(range(steps), desc="decoder")
    for _ in progress:
        x = to_tensor(_pictures(batch, rng))
        with torch.no_grad():
            posterior = vae.encode(x).latent_dist
            latents = posterior.mean + 0.3 * posterior.std * torch.randn_like(posterior.mean)
        error = vae.decode(latents).sample - x
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        optimizer.zero_grad()
        (error.abs().mean() + error.square().mean() + edges).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(l1=f"{error.abs().mean().item():.4f}", refresh=False)
    vae.requires_grad_(False)


def _pictures(count: int, rng: random.Random) -> np.ndarray:
    return np.stack([render(sample_caption(rng, held_out=None), rng) for _ in range(count)])


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 128) -> Tensor:
    """Scaled latents `(B, 4, h, w)` of `(B, H, W, 3)` uint8 images."""
    parts = [vae.encode(to_tensor(images[i : i + batch])).latent_dist.mean for i in range(0, len(images), batch)]
    return torch.cat(parts) * vae.config.scaling_factor


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: np.ndarray, batch: int = 128) -> np.ndarray:
    """What is left of images `(B, H, W, 3)` uint8 after encoding and decoding."""
    parts = [
        vae.decode(encode(vae, images[i : i + batch]) / vae.config.scaling_factor).sample
        for i in range(0, len(images), batch)
    ]
    pixels = ((torch.cat(parts) / 2 + 0.5).clamp(0, 1) * 255).round()
    return pixels.to(torch.uint8).permute(0, 2, 3, 1).numpy()


def fit_denoiser(
    vae: AutoencoderKL, tokenizer: CLIPTokenizer, steps: int, batch: int, pictures: int, rng: random.Random
) -> StableDiffusionPipeline:
    """Train text encoder and UNet on `pictures` renderings of training captions; returns the exponential average."""
    captions = [sample_caption(rng) for _ in range(pictures)]
    latents = encode(vae, np.stack([render(caption, rng) for caption in tqdm(captions, desc="pictures")]))
    tokens = tokenizer(
        [caption.text for caption in captions], padding="max_length", max_length=MAX_TOKENS, return_tensors="pt"
    ).input_ids
    empty = tokenizer("", padding="max_length", max_length=MAX_TOKENS, return_tensors="pt").input_ids

    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=192,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE // 4,
        block_out_channels=(48, 96),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=64,
        attention_head_dim=4,
        norm_num_groups=8,
    ).to(memory_format=torch.channels_last)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps, pct_start=0.05)
    average = EMAModel(parameters, decay=0.998)
    progress = tqdm(range(steps), desc="denoiser")
    for _ in progress:
        index = torch.randint(pictures, (batch,))
        dropped = torch.rand(batch, 1) < _CAPTION_DROPOUT
        noise = torch.randn(batch, *latents.shape[1:])
        times = torch.randint(1000, (batch,))
        noisy = scheduler.add_noise(latents[index], noise, times)
        embeddings = text_encoder(torch.where(dropped, empty, tokens[index])).last_hidden_state
        loss = F.mse_loss(unet(noisy, times, embeddings).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average.step(parameters)
        progress.set_postfix(mse=f"{loss.item():.4f}", refresh=False)
    average.copy_to(parameters)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder.eval(),
        tokenizer=tokenizer,
        unet=unet.eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
