"""Trains a small Stable Diffusion on any drawn world: tokenizer, autoencoder, decoder once more, then text encoder and
UNet together.

The parts are diffusers' and transformers' own classes, and `shapes.networks` has the embedded world's. What was left
out against the real thing: adversarial and perceptual losses of the autoencoder, and a pretrained text encoder (it is
trained with the UNet).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, SchedulerMixin, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from shapes.resumable import Keep, resumable

Pictures = Callable[[int], np.ndarray]  # draws so many: (B, H, W, 3) uint8

_CAPTION_DROPOUT = 0.1  # trains the unconditional branch of classifier-free guidance


def word_tokenizer(folder: Path, words: Iterable[str], max_tokens: int) -> CLIPTokenizer:
    """A CLIP tokenizer, saved in `folder`, whose byte-pair merges make one token of each of `words` (lower case)."""
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    merges = _learn_merges(sorted(set(words)))
    vocabulary = [*letters, *(f"{c}</w>" for c in letters), *("".join(pair) for pair in merges)]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": max_tokens}
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


def make_text_encoder(tokenizer: CLIPTokenizer, width: int, intermediate: int, heads: int) -> CLIPTextModel:
    """A new text encoder of two layers for all that a tokenizer says.

    Args:
        tokenizer: Of `word_tokenizer`.
        width: Of a token's embedding.
        intermediate: Width between the two halves of a layer's feed-forward part.
        heads: Of its attention.
    """
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=intermediate,
            num_hidden_layers=2,
            num_attention_heads=heads,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def to_tensor(images: np.ndarray) -> Tensor:
    """`(B, H, W, 3)` uint8 to `(B, 3, H, W)` float32 in [-1, 1], channels last in memory."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def fit_autoencoder(vae: AutoencoderKL, pictures: Pictures, steps: int, batch: int, keep: Keep | None = None) -> None:
    """Train an autoencoder in place, freeze it, and give it the scaling factor that makes latents of unit size."""
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for progress in resumable("autoencoder", steps, keep, vae=vae, optimizer=optimizer, schedule=schedule):
        x = to_tensor(pictures(batch))
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
    scale = 1 / encode(vae, pictures(512)).std().item()  # encode() applies the old factor, so undo it
    vae.register_to_config(scaling_factor=scale * vae.config.scaling_factor)


def fit_decoder(vae: AutoencoderKL, pictures: Pictures, steps: int, batch: int, keep: Keep | None = None) -> None:
    """Train the decoder alone for longer, in place, as Stable Diffusion's own was (sd-vae-ft-mse).

    The latents stay as they are. Without it every second star came back as a blob: edges count here as much as areas.
    """
    parameters = [*vae.post_quant_conv.parameters(), *vae.decoder.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for progress in resumable("decoder", steps, keep, vae=vae, optimizer=optimizer, schedule=schedule):
        x = to_tensor(pictures(batch))
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


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 128) -> Tensor:
    """Scaled latents `(B, C, h, w)` of `(B, H, W, 3)` uint8 images."""
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
    pipeline: StableDiffusionPipeline,
    texts: Sequence[str],
    images: np.ndarray,
    steps: int,
    batch: int,
    keep: Keep | None = None,
) -> None:
    """Train UNet and text encoder of a pipeline in place, to the exponential average of their weights.

    Args:
        pipeline: With a trained autoencoder. A text encoder that is frozen stays as it is. The UNet learns what the
            scheduler says that it predicts: noise, or the velocity of flow matching (`flow_prediction`).
        texts: B captions.
        images: What they show, `(B, H, W, 3)` uint8.
        steps: Optimizer steps.
        batch: Images of each.
        keep: Where to keep what it needs to go on after it was stopped.
    """
    tokenizer, text_encoder, scheduler = pipeline.tokenizer, pipeline.text_encoder.train(), pipeline.scheduler
    unet = pipeline.unet.train().to(memory_format=torch.channels_last)
    latents = encode(pipeline.vae, images)
    tokens, empty = (tokenizer(t, padding="max_length", return_tensors="pt").input_ids for t in (list(texts), ""))
    parameters = [p for p in (*unet.parameters(), *text_encoder.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.5e-3, total_steps=steps, pct_start=0.05)
    average = EMAModel(parameters, decay=0.998)
    parts = {"unet": unet, "text_encoder": text_encoder, "optimizer": optimizer, "schedule": schedule}
    for progress in resumable("denoiser", steps, keep, average=average, **parts):
        index = torch.randint(len(latents), (batch,))
        dropped = torch.rand(batch, 1) < _CAPTION_DROPOUT
        noise = torch.randn(batch, *latents.shape[1:])
        noisy, times, target = _noised(scheduler, latents[index], noise)
        embeddings = text_encoder(torch.where(dropped, empty, tokens[index])).last_hidden_state
        loss = F.mse_loss(unet(noisy, times, embeddings).sample, target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average.step(parameters)
        progress.set_postfix(mse=f"{loss.item():.4f}", refresh=False)
    average.copy_to(parameters)
    text_encoder.eval()
    unet.eval()


def _noised(scheduler: SchedulerMixin, latents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """States at random times `(B,)`, the times, and what is to be predicted there."""
    if scheduler.config.prediction_type == "flow_prediction":
        sigma = torch.rand(len(latents))
        return torch.lerp(latents, noise, sigma[:, None, None, None]), 1000 * sigma, noise - latents
    times = torch.randint(1000, (len(latents),))
    return scheduler.add_noise(latents, noise, times), times, noise


def make_pipeline(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    unet: UNet2DConditionModel,
    scheduler: SchedulerMixin,
) -> StableDiffusionPipeline:
    """The parts as one pipeline, without a safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write it, all but the text encoder in half precision."""
    pipeline.to(torch.float16)
    # Transformers loads what is on disk, diffusers float32: a half-precision text encoder would need options.
    pipeline.text_encoder.float()
    pipeline.save_pretrained(folder)
