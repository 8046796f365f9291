"""Makes `shapes/pretrained/readers`: `python -m shapes.fit_reader`, minutes of one core.

Renderings of random captions of a world, half of them through its autoencoder, with noise of up to 0.1; the network
learns which things are there and what the background is.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from torch import Tensor

from shapes import FOLDERS, READERS
from shapes.arguments import Parser, positive
from shapes.captions import sample_caption
from shapes.fit_pipeline import reconstruct
from shapes.reader import Reader
from shapes.render import arrange, draw
from shapes.resumable import resumable
from shapes.worlds import WORLDS, World

_BATCH, _LR = 96, 3e-3


def pictures(
    count: int, reader: Reader, vae: AutoencoderKL | None, rng: random.Random
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, half of them through an autoencoder where there is one, and what they show.

    Returns:
        Images `(count, 3, size, size)` float32 in [0, 1], which things `(count, things)` float32 of 0 and 1, and the
        background `(count,)` int64.
    """
    world: World = reader.world
    drawn = np.empty((count, world.size, world.size, 3), np.uint8)
    things, grounds = torch.zeros(count, len(reader.things)), torch.empty(count, dtype=torch.int64)
    for i in range(count):
        scene = arrange(sample_caption(rng, held_out=None, world=world), rng)
        drawn[i] = draw(scene)
        things[i, [reader.things.index(one.thing) for one in scene.objects]] = 1
        grounds[i] = reader.backgrounds.index(scene.background)
    if vae is not None:
        drawn[: count // 2] = reconstruct(vae, drawn[: count // 2])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255, things, grounds


def fit(reader: Reader, made: tuple[Tensor, Tensor, Tensor], steps: int) -> None:
    """Train a reader in place on what `pictures` gives."""
    images, things, grounds = made
    optimizer = torch.optim.AdamW(reader.parameters(), lr=_LR, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=steps, pct_start=0.1)
    for progress in resumable(f"reader, {reader.world.name}", steps, None):
        index = torch.randint(len(images), (_BATCH,))
        noisy = images[index] + 0.1 * torch.rand(_BATCH, 1, 1, 1) * torch.randn_like(images[index])
        found, stands = reader(noisy.clamp(0, 1))
        loss = F.binary_cross_entropy_with_logits(found, things[index]) * found.shape[1]
        loss = loss + F.cross_entropy(stands, grounds[index])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    reader.eval()


@torch.no_grad()
def measure(reader: Reader, made: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    """The share of pictures in which all things, and the background, are read right."""
    images, things, grounds = made
    found, stands = reader(images)
    right = ((found > 0) == (things > 0)).all(dim=1)
    return {"things": float(right.float().mean()), "background": float((stands.argmax(1) == grounds).float().mean())}


def main() -> None:
    """The command line."""
    parser = Parser("shapes.fit_reader", __doc__ or "")
    parser.add_argument("--world", choices=WORLDS, nargs="+", default=list(WORLDS), help="default: all")
    parser.add_argument("--out", type=Path, help="folder to write, of one world (default: shapes/pretrained/...)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=positive, default=700, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--pictures", type=positive, default=6000, help="of each world (default: %(default)s)")
    args = parser.parse_args()
    if args.out and len(args.world) > 1:
        parser.error("--out is of one world; name it with --world")
    for world in args.world:
        torch.manual_seed(args.seed)
        rng, out = random.Random(args.seed), args.out or READERS[world]
        vae = AutoencoderKL.from_pretrained(FOLDERS[world] / "pipeline" / "vae", dtype=torch.float32)
        reader = Reader(world=world)
        fit(reader, pictures(args.pictures, reader, vae, rng), args.steps)
        reader.half().float()
        summary = {key: round(of, 4) for key, of in measure(reader, pictures(2000, reader, vae, rng)).items()}
        reader.half().save_pretrained(out)
        (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        print(f"{world}: {json.dumps(summary)}")


if __name__ == "__main__":
    main()
