"""Makes `shapes/pretrained/aesthetic`: `python -m shapes.fit_aesthetic`, two minutes of one core.

A made-up person, whose taste is known, chooses between two pictures again and again, and not always alike; the network
learns the taste from the choices alone. The taste is

    u = 3 brightness + 10 warmth + 20 size       P(this rather than that) = sigmoid(u_this - u_that)

with brightness the mean luma (Rec. 709) and warmth the mean of red less blue, both of the picture's values in [0, 1],
and size the share of it that its objects cover. Pictures are renderings of random captions of both worlds, half of them
washed over with a colour, so that brightness and warmth are learned as such and not as the names of a few backgrounds.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shapes import AESTHETIC
from shapes.aesthetic import Aesthetic
from shapes.arguments import Parser, positive
from shapes.captions import sample_caption
from shapes.render import arrange, draw
from shapes.resumable import resumable
from shapes.worlds import WORLDS, World

BRIGHTNESS, WARMTH, SIZE = 3.0, 10.0, 20.0
_LUMA = np.array([0.2126, 0.7152, 0.0722])
_MOST = 0.6  # share of a picture that a wash of colour may hide
_BATCH, _LR = 128, 3e-3


def taste(picture: np.ndarray, size: float) -> float:
    """u of the head of this file.

    Args:
        picture: `(H, W, 3)` in [0, 1].
        size: The share of it that objects cover.
    """
    mean = picture.reshape(-1, 3).mean(axis=0)
    return float(BRIGHTNESS * mean @ _LUMA + WARMTH * (mean[0] - mean[2]) + SIZE * size)


def pictures(count: int, world: World, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of random captions, half of them washed over, and what the taste says of them.

    Returns:
        `(count, size, size, 3)` uint8 and `(count,)` float64.
    """
    drawn, said = np.empty((count, world.size, world.size, 3), np.uint8), np.empty(count)
    for i in range(count):
        scene = arrange(sample_caption(rng, held_out=None, world=world), rng)
        clean = draw(scene)
        size = float((clean != np.array(world.backgrounds[scene.background])).any(axis=2).mean())
        share = rng.uniform(0, _MOST) if rng.random() < 0.5 else 0.0
        colour = np.array([rng.uniform(0, 255) for _ in range(3)])
        drawn[i] = np.round((1 - share) * clean + share * colour)
        said[i] = taste(drawn[i] / 255, size)
    return drawn, said


def choices(said: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Choices between two pictures: `(count, 2)` int64, the chosen one first.

    Args:
        said: `(n,)`, u of each picture.
        count: How many.
        random: Draws the pairs, and what the person makes of each.
    """
    pairs = random.integers(len(said), size=(count, 2))
    first = random.random(count) < 1 / (1 + np.exp(said[pairs[:, 1]] - said[pairs[:, 0]]))
    return np.where(first[:, None], pairs, pairs[:, ::-1])


def to_images(drawn: np.ndarray) -> Tensor:
    """`(B, H, W, 3)` uint8 to `(B, 3, H, W)` float32 in [0, 1]."""
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).float() / 255


def fit(made: list[tuple[np.ndarray, np.ndarray]], steps: int, count: int, random: np.random.Generator) -> Aesthetic:
    """Train on choices within each world's pictures, in turn, through noise of up to 0.1.

    Args:
        made: Of each world, what `pictures` gives.
        steps: Optimizer steps.
        count: Choices of each world, which come again and again.
        random: Makes the choices.
    """
    network, chosen = Aesthetic(), [choices(said, count, random) for _, said in made]
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LR, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LR, total_steps=steps, pct_start=0.1)
    for progress in resumable("aesthetic", steps, None):
        which = int(torch.randint(len(made), ()))
        pairs = chosen[which][torch.randint(count, (_BATCH,)).numpy()]
        images = to_images(made[which][0][pairs.flatten()])
        images = (images + 0.1 * torch.rand(len(images), 1, 1, 1) * torch.randn_like(images)).clamp(0, 1)
        better, worse = network(images).unflatten(0, (-1, 2)).unbind(1)
        loss = F.softplus(worse - better).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    return network.eval()


@torch.no_grad()
def measure(network: Aesthetic, drawn: np.ndarray, said: np.ndarray, random: np.random.Generator) -> dict[str, float]:
    """The share of fresh choices that the network foretells, and the taste itself; and their correlation."""
    scores = network(to_images(drawn)).numpy()
    better, worse = choices(said, 20_000, random).T
    return {
        "network": float((scores[better] > scores[worse]).mean()),
        "taste": float((said[better] > said[worse]).mean()),
        "correlation": float(np.corrcoef(scores, said)[0, 1]),
    }


def main() -> None:
    """The command line."""
    parser = Parser("shapes.fit_aesthetic", __doc__ or "")
    parser.add_argument("--out", type=Path, default=AESTHETIC, help="folder to write (default: shapes/pretrained/...)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=positive, default=600, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--pictures", type=positive, default=5000, help="of each world (default: %(default)s)")
    parser.add_argument("--choices", type=positive, default=20_000, help="of each world (default: %(default)s)")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rng, random_ = random.Random(args.seed), np.random.default_rng(args.seed)
    made = [pictures(args.pictures, world, rng) for world in WORLDS.values()]
    network = fit(made, args.steps, args.choices, random_).half().float()
    summary = {
        name: {key: round(value, 4) for key, value in measure(network, *pictures(2000, world, rng), random_).items()}
        for name, world in WORLDS.items()
    }
    network.half().save_pretrained(args.out)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
